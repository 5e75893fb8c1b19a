# With a password from Secrets Manager, which clients use as well: what RDS Proxy does with one auth block.

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
  db_cluster_identifier  = "orders"
  idle_client_timeout    = 1800
  max_connections        = 400

  auth = [{
    auth_scheme = "SECRETS"
    iam_auth    = "DISABLED"
    secret_arn  = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/orders-a1B2c3"
  }]

  connection_pool_config = {
    connection_borrow_timeout = 120
    max_connections_percent   = 80
  }
}

output "endpoint" {
  description = "Host name for clients."
  value       = module.proxy.endpoint
}
