# With IAM as user app, TLS with clients, and a list of users.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.60"
    }
  }
}

module "proxy" {
  source = "../.."

  name                   = "orders"
  namespace              = "database.internal"
  vpc_subnet_ids         = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  vpc_security_group_ids = ["sg-0123456789abcdef0"]
  db_instance_identifier = "orders"
  default_auth_scheme    = "IAM_AUTH"
  database_user          = "app"
  users_secret_arn       = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/pooler-users-a1B2c3"
  certificate_secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/pooler-tls-a1B2c3"
  require_tls            = true
  cpu_architecture       = "ARM64"
  settings               = { default_pool_size = "40" }
}

output "endpoint" {
  description = "Host name for clients."
  value       = module.proxy.endpoint
}
