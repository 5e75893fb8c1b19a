# Arguments. The first part has the names of aws_db_proxy, aws_db_proxy_default_target_group and aws_db_proxy_target, so that one
# can replace the other; README.md lists those that have no effect.

# aws_db_proxy

variable "name" {
  description = "Name of the service, of its role and of its security group."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,39}$", var.name))
    error_message = "The name must begin with a lower-case letter and have at most 40 lower-case letters, digits and hyphens."
  }
}

variable "engine_family" {
  description = "Must be POSTGRESQL."
  type        = string
  default     = "POSTGRESQL"

  validation {
    condition     = var.engine_family == "POSTGRESQL"
    error_message = "iambouncer is for PostgreSQL only."
  }
}

variable "vpc_subnet_ids" {
  description = "Private subnets of the tasks, in at least two availability zones. They need a route to the image's registry and to AWS."
  type        = list(string)

  validation {
    condition     = length(var.vpc_subnet_ids) >= 2
    error_message = "At least two subnets are needed."
  }
}

variable "vpc_security_group_ids" {
  description = "Security groups of the tasks, besides the one that the module creates. They decide which clients may connect."
  type        = list(string)
  default     = []
}

variable "require_tls" {
  description = "Refuse clients without TLS. Needs certificate_secret_arn."
  type        = bool
  default     = false

  validation {
    condition     = !var.require_tls || var.certificate_secret_arn != null
    error_message = "require_tls needs certificate_secret_arn: unlike RDS Proxy, the pooler has no certificate of AWS."
  }
}

variable "idle_client_timeout" {
  description = "Seconds after which idle clients are disconnected."
  type        = number
  default     = 1800

  validation {
    condition     = var.idle_client_timeout >= 0
    error_message = "The time must not be negative; 0 means no limit."
  }
}

variable "debug_logging" {
  description = "More log lines. They contain no SQL, unlike those of RDS Proxy."
  type        = bool
  default     = false
}

variable "default_auth_scheme" {
  description = "NONE: the pooler logs in with the secret in auth. IAM_AUTH: with IAM, as database_user."
  type        = string
  default     = "NONE"

  validation {
    condition     = contains(["NONE", "IAM_AUTH"], var.default_auth_scheme)
    error_message = "The scheme must be NONE or IAM_AUTH."
  }
}

variable "auth" {
  description = "How the pooler logs in with a secret: one block, without default_auth_scheme = IAM_AUTH."
  type = list(object({
    auth_scheme               = optional(string, "SECRETS")
    client_password_auth_type = optional(string, "POSTGRES_SCRAM_SHA_256")
    description               = optional(string)
    iam_auth                  = optional(string, "DISABLED")
    secret_arn                = optional(string)
    username                  = optional(string)
  }))
  default = []

  validation {
    condition     = length(var.auth) == (var.default_auth_scheme == "IAM_AUTH" ? 0 : 1)
    error_message = "Exactly one block is needed with default_auth_scheme = NONE, and none with IAM_AUTH: a service has one user of the database."
  }

  validation {
    condition     = alltrue([for block in var.auth : block.auth_scheme == "SECRETS" && block.secret_arn != null])
    error_message = "auth_scheme must be SECRETS, with secret_arn."
  }

  validation {
    condition     = alltrue([for block in var.auth : block.iam_auth == "DISABLED"])
    error_message = "With a secret, clients log in with its password. Use default_auth_scheme = IAM_AUTH for IAM."
  }

  validation {
    condition     = alltrue([for block in var.auth : contains(["POSTGRES_SCRAM_SHA_256", "POSTGRES_MD5"], block.client_password_auth_type)])
    error_message = "client_password_auth_type must be POSTGRES_SCRAM_SHA_256 or POSTGRES_MD5."
  }
}

variable "role_arn" {
  description = "Role of the tasks, instead of the one that the module creates. It must allow rds-db:connect, or reading the secret."
  type        = string
  default     = null
}

variable "endpoint_network_type" {
  description = "Has no effect: the subnets decide."
  type        = string
  default     = null
}

variable "target_connection_network_type" {
  description = "Has no effect: the name of the database decides."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
}

# aws_db_proxy_default_target_group

variable "connection_pool_config" {
  description = "Sizes and times of pools."
  type = object({
    connection_borrow_timeout    = optional(number, 120)
    init_query                   = optional(string)
    max_connections_percent      = optional(number, 100)
    max_idle_connections_percent = optional(number)
    session_pinning_filters      = optional(list(string), [])
  })
  default = {}

  validation {
    condition     = var.connection_pool_config.max_connections_percent > 0 && var.connection_pool_config.max_connections_percent <= 100
    error_message = "max_connections_percent must be from 1 to 100."
  }

  validation {
    condition     = var.connection_pool_config.init_query == null
    error_message = "init_query is not supported here. Use ALTER ROLE ... SET in the database, or connect_query in a configuration file."
  }
}

# aws_db_proxy_target

variable "db_instance_identifier" {
  description = "Instance to connect to. One of this and db_cluster_identifier is needed."
  type        = string
  default     = null

  validation {
    condition     = (var.db_instance_identifier == null) != (var.db_cluster_identifier == null)
    error_message = "Set one of db_instance_identifier and db_cluster_identifier."
  }
}

variable "db_cluster_identifier" {
  description = "Aurora cluster to connect to, at its writer endpoint."
  type        = string
  default     = null
}

# Only here

variable "database_user" {
  description = "User that the pooler logs in as with IAM."
  type        = string
  default     = null

  validation {
    condition     = (var.database_user != null) == (var.default_auth_scheme == "IAM_AUTH")
    error_message = "database_user is needed with default_auth_scheme = IAM_AUTH, and comes from the secret otherwise."
  }
}

variable "database_name" {
  description = "Database that clients use. The default is the initial database of the instance or cluster."
  type        = string
  default     = null
}

variable "users_secret_arn" {
  description = "Secret whose text is the list of users of the pooler, made by `iambouncer hash`. Needed with IAM_AUTH."
  type        = string
  default     = null

  validation {
    condition     = var.default_auth_scheme != "IAM_AUTH" || var.users_secret_arn != null
    error_message = "With IAM_AUTH, users_secret_arn decides who may connect."
  }
}

variable "certificate_secret_arn" {
  description = "Secret with the keys certificate and private_key, in PEM format, for TLS with clients."
  type        = string
  default     = null
}

variable "max_connections" {
  description = "The database's max_connections, of which all tasks of a rollout (twice desired_count) together use max_connections_percent. Subtract reserved connections yourself. Without it, each task has up to 20 connections per database and user."
  type        = number
  default     = null
}

variable "port" {
  description = "Port for clients."
  type        = number
  default     = 5432
}

variable "desired_count" {
  description = "Number of tasks, at most four. A rollout doubles them, and a lookup returns at most eight addresses."
  type        = number
  default     = 2

  validation {
    condition     = var.desired_count >= 1 && var.desired_count <= 4
    error_message = "The number must be from 1 to 4: a rollout doubles the tasks, and a lookup in Cloud Map returns at most eight addresses."
  }
}

variable "cpu" {
  description = "CPU units of a task, of which 1024 are a vCPU."
  type        = number
  default     = 1024
}

variable "memory" {
  description = "Memory of a task in MiB."
  type        = number
  default     = 2048
}

variable "cpu_architecture" {
  description = "X86_64 or ARM64."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "The architecture must be X86_64 or ARM64."
  }
}

variable "image" {
  description = "Image of the pooler, without a suffix. Its suffix -debug is used to write files from secrets."
  type        = string
  default     = "ghcr.io/iambouncer/iambouncer:0.1.0"
}

variable "cluster_arn" {
  description = "ECS cluster, instead of the one that the module creates."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Name of the private DNS namespace that the module creates in the VPC. The endpoint is a name in it."
  type        = string
}

variable "drain_min_seconds" {
  description = "Seconds for which a task that is stopped accepts clients, since they may have looked up its address before."
  type        = number
  default     = 10
}

variable "drain_max_seconds" {
  description = "Seconds after which a task that is stopped has closed all clients. ECS permits 120 in total."
  type        = number
  default     = 110

  validation {
    condition     = var.drain_max_seconds >= var.drain_min_seconds && var.drain_max_seconds <= 115
    error_message = "The maximum must be from drain_min_seconds to 115."
  }
}

variable "settings" {
  description = "Other settings of docs/settings.md, such as { default_pool_size = 40 }."
  type        = map(string)
  default     = {}
}

variable "log_retention_in_days" {
  description = "Days for which the log is kept."
  type        = number
  default     = 365
}

variable "log_kms_key_arn" {
  description = "Key that encrypts the log, instead of the default encryption of CloudWatch."
  type        = string
  default     = null
}
