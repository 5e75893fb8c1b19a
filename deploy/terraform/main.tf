# A central pooler on ECS: the database that it connects to, its identity, its network, and the service with its tasks.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

data "aws_subnet" "first" {
  id = var.vpc_subnet_ids[0]
}

data "aws_vpc" "this" {
  id = data.aws_subnet.first.vpc_id
}

data "aws_db_instance" "this" {
  count                  = var.db_instance_identifier == null ? 0 : 1
  db_instance_identifier = var.db_instance_identifier
}

data "aws_rds_cluster" "this" {
  count              = var.db_cluster_identifier == null ? 0 : 1
  cluster_identifier = var.db_cluster_identifier
}

locals {
  partition = data.aws_partition.current.partition
  # `id` is the region's name in all versions of the provider.
  region  = data.aws_region.current.id
  account = data.aws_caller_identity.current.account_id

  database_host = one(concat(data.aws_db_instance.this[*].address, data.aws_rds_cluster.this[*].endpoint))
  database_port = one(concat(data.aws_db_instance.this[*].port, data.aws_rds_cluster.this[*].port))
  # The ID in ARNs of rds-db:connect, which begins with db- or cluster-. It is not the identifier.
  resource_id = one(concat(data.aws_db_instance.this[*].resource_id, data.aws_rds_cluster.this[*].cluster_resource_id))
  database_name = coalesce(
    var.database_name,
    one(concat(data.aws_db_instance.this[*].db_name, data.aws_rds_cluster.this[*].database_name)),
    "postgres",
  )

  uses_iam    = var.default_auth_scheme == "IAM_AUTH"
  secret_arn  = one(var.auth[*].secret_arn)
  connect_arn = local.uses_iam ? "arn:${local.partition}:rds-db:${local.region}:${local.account}:dbuser:${local.resource_id}/${var.database_user}" : null
  auth_types = {
    POSTGRES_SCRAM_SHA_256 = "scram-sha-256"
    POSTGRES_MD5           = "md5"
  }

  # In a rollout, old tasks keep their servers while they drain: each task has its share of the largest number of tasks.
  deployment_maximum_percent = 200
  max_tasks                  = floor(var.desired_count * local.deployment_maximum_percent / 100)
  max_db_connections = var.max_connections == null ? null : max(
    1, floor(var.max_connections * var.connection_pool_config.max_connections_percent / 100 / local.max_tasks)
  )

  peer_host   = "${var.name}.${var.namespace}"
  files       = "/etc/iambouncer-files"
  needs_files = var.users_secret_arn != null || var.certificate_secret_arn != null
  file_secrets = merge(
    var.users_secret_arn == null ? {} : { USERS = var.users_secret_arn },
    var.certificate_secret_arn == null ? {} : {
      CERTIFICATE = "${var.certificate_secret_arn}:certificate::"
      PRIVATE_KEY = "${var.certificate_secret_arn}:private_key::"
    },
  )

  variables = merge(
    {
      IAMBOUNCER_DB_HOST             = local.database_host
      IAMBOUNCER_DB_PORT             = tostring(local.database_port)
      IAMBOUNCER_DB_NAME             = local.database_name
      AWS_REGION                     = local.region
      IAMBOUNCER_LISTEN_ADDR         = "*"
      IAMBOUNCER_LISTEN_PORT         = tostring(var.port)
      IAMBOUNCER_AUTH_TYPE           = local.uses_iam ? "scram-sha-256" : local.auth_types[var.auth[0].client_password_auth_type]
      IAMBOUNCER_WORKERS             = tostring(ceil(var.cpu / 1024))
      IAMBOUNCER_CLIENT_IDLE_TIMEOUT = tostring(var.idle_client_timeout)
      IAMBOUNCER_QUERY_WAIT_TIMEOUT  = tostring(var.connection_pool_config.connection_borrow_timeout)
      IAMBOUNCER_PEER_HOST           = local.peer_host
      IAMBOUNCER_DRAIN_MIN_SECONDS   = tostring(var.drain_min_seconds)
      IAMBOUNCER_DRAIN_MAX_SECONDS   = tostring(var.drain_max_seconds)
      IAMBOUNCER_VERBOSE             = var.debug_logging ? "1" : "0"
    },
    local.uses_iam ? { IAMBOUNCER_DB_USER = var.database_user } : { IAMBOUNCER_SECRET_ARN = local.secret_arn },
    local.max_db_connections == null ? {} : {
      IAMBOUNCER_DEFAULT_POOL_SIZE  = tostring(local.max_db_connections)
      IAMBOUNCER_MAX_DB_CONNECTIONS = tostring(local.max_db_connections)
    },
    var.users_secret_arn == null ? {} : { IAMBOUNCER_AUTH_FILE = "${local.files}/userlist.txt" },
    var.certificate_secret_arn == null ? {} : {
      IAMBOUNCER_CLIENT_TLS_SSLMODE   = var.require_tls ? "require" : "prefer"
      IAMBOUNCER_CLIENT_TLS_CERT_FILE = "${local.files}/tls.crt"
      IAMBOUNCER_CLIENT_TLS_KEY_FILE  = "${local.files}/tls.key"
    },
    { for name, value in var.settings : "IAMBOUNCER_${upper(name)}" => value },
  )

  log_configuration = {
    logDriver = "awslogs"
    options = {
      awslogs-group         = aws_cloudwatch_log_group.this.name
      awslogs-region        = local.region
      awslogs-stream-prefix = var.name
    }
  }

  # Writes the secrets into files, which the pooler reads. The image of the pooler has no shell, so another container does it,
  # and ends. The volume exists in this task only.
  files_container = {
    name                   = "files"
    image                  = "${var.image}-debug"
    essential              = false
    user                   = "0:0"
    readonlyRootFilesystem = true
    entryPoint             = ["sh", "-c"]
    command = [<<-EOT
      set -eu
      cd ${local.files}
      if [ -n "$${USERS:-}" ]; then printf '%s\n' "$USERS" >userlist.txt; fi
      if [ -n "$${CERTIFICATE:-}" ]; then printf '%s\n' "$CERTIFICATE" >tls.crt; printf '%s\n' "$PRIVATE_KEY" >tls.key; fi
    EOT
    ]
    secrets          = [for name, arn in local.file_secrets : { name = name, valueFrom = arn }]
    mountPoints      = [{ sourceVolume = "files", containerPath = local.files, readOnly = false }]
    logConfiguration = local.log_configuration
  }

  pooler_container = {
    name                   = "iambouncer"
    image                  = var.image
    essential              = true
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    environment            = [for name, value in local.variables : { name = name, value = value }]
    portMappings           = [{ containerPort = var.port, protocol = "tcp" }]
    dependsOn              = local.needs_files ? [{ containerName = "files", condition = "SUCCESS" }] : []
    mountPoints            = local.needs_files ? [{ sourceVolume = "files", containerPath = local.files, readOnly = true }] : []
    healthCheck = {
      command     = ["CMD", "/iambouncer", "healthcheck"]
      interval    = 5
      timeout     = 5
      retries     = 3
      startPeriod = 30
    }
    stopTimeout      = var.drain_max_seconds + 5
    ulimits          = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    logConfiguration = local.log_configuration
  }
}

# Identity

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    # Without this, tasks of another account could be made to use the role.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

data "aws_iam_policy_document" "task" {
  dynamic "statement" {
    for_each = local.uses_iam ? [local.connect_arn] : []

    content {
      sid       = "Connect"
      actions   = ["rds-db:connect"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = local.uses_iam ? [] : [local.secret_arn]

    content {
      sid       = "ReadPassword"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "task" {
  count              = var.role_arn == null ? 1 : 0
  name               = "${var.name}-task"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "task" {
  count  = var.role_arn == null ? 1 : 0
  name   = "database"
  role   = aws_iam_role.task[0].id
  policy = data.aws_iam_policy_document.task.json
}

# ECS itself writes the log and reads the secrets of files, before the tasks run.
data "aws_iam_policy_document" "execution" {
  statement {
    sid       = "WriteLog"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }

  dynamic "statement" {
    for_each = local.needs_files ? [compact([var.users_secret_arn, var.certificate_secret_arn])] : []

    content {
      sid       = "ReadFiles"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = statement.value
    }
  }
}

resource "aws_iam_role" "execution" {
  name               = "${var.name}-execution"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "execution" {
  name   = "start"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

# Network

resource "aws_security_group" "this" {
  name        = var.name
  description = "Tasks of the pooler ${var.name}"
  vpc_id      = data.aws_vpc.this.id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "peers" {
  security_group_id            = aws_security_group.this.id
  description                  = "Cancel requests that other tasks forward"
  referenced_security_group_id = aws_security_group.this.id
  from_port                    = var.port
  to_port                      = var.port
  ip_protocol                  = "tcp"
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "peers" {
  security_group_id            = aws_security_group.this.id
  description                  = "Cancel requests for clients of other tasks"
  referenced_security_group_id = aws_security_group.this.id
  from_port                    = var.port
  to_port                      = var.port
  ip_protocol                  = "tcp"
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "database" {
  security_group_id = aws_security_group.this.id
  description       = "The database"
  cidr_ipv4         = data.aws_vpc.this.cidr_block
  from_port         = local.database_port
  to_port           = local.database_port
  ip_protocol       = "tcp"
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "aws" {
  security_group_id = aws_security_group.this.id
  description       = "STS, Secrets Manager, CloudWatch and the registry of the image, whose addresses change"
  cidr_ipv4         = "0.0.0.0/0"
  from_port         = 443
  to_port           = 443
  ip_protocol       = "tcp"
  tags              = var.tags
}

# The name by which clients find the tasks, and tasks each other.
resource "aws_service_discovery_private_dns_namespace" "this" {
  name        = var.namespace
  description = "Poolers of ${var.name}"
  vpc         = data.aws_vpc.this.id
  tags        = var.tags
}

resource "aws_service_discovery_service" "this" {
  name = var.name
  tags = var.tags

  dns_config {
    namespace_id   = aws_service_discovery_private_dns_namespace.this.id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      ttl  = 5
    }
  }

  # ECS reports the health of the tasks.
  health_check_custom_config {
    failure_threshold = 1
  }

  lifecycle {
    # The provider reads it back as absent, since AWS has deprecated the number.
    ignore_changes = [health_check_custom_config]
  }
}

# Service

resource "aws_cloudwatch_log_group" "this" {
  name              = "/ecs/${var.name}"
  retention_in_days = var.log_retention_in_days
  kms_key_id        = var.log_kms_key_arn
  tags              = var.tags
}

resource "aws_ecs_cluster" "this" {
  count = var.cluster_arn == null ? 1 : 0
  name  = var.name
  tags  = var.tags

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = var.role_arn == null ? aws_iam_role.task[0].arn : var.role_arn
  execution_role_arn       = aws_iam_role.execution.arn
  container_definitions    = jsonencode(concat(local.needs_files ? [local.files_container] : [], [local.pooler_container]))
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  dynamic "volume" {
    for_each = local.needs_files ? ["files"] : []

    content {
      name = volume.value
    }
  }
}

resource "aws_ecs_service" "this" {
  name                               = var.name
  cluster                            = var.cluster_arn == null ? aws_ecs_cluster.this[0].arn : var.cluster_arn
  task_definition                    = aws_ecs_task_definition.this.arn
  desired_count                      = var.desired_count
  launch_type                        = "FARGATE"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = local.deployment_maximum_percent
  propagate_tags                     = "SERVICE"
  tags                               = var.tags

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.vpc_subnet_ids
    security_groups  = concat([aws_security_group.this.id], var.vpc_security_group_ids)
    assign_public_ip = false
  }

  service_registries {
    registry_arn = aws_service_discovery_service.this.arn
  }

  # The tasks need the permissions when they start.
  depends_on = [aws_iam_role_policy.task, aws_iam_role_policy.execution]
}
