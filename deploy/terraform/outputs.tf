# Results. The first three have the names of aws_db_proxy.

output "id" {
  description = "ARN of the ECS service."
  value       = aws_ecs_service.this.id
}

output "arn" {
  description = "ARN of the ECS service."
  value       = aws_ecs_service.this.id
}

output "endpoint" {
  description = "Host name for clients, with the addresses of all tasks."
  value       = local.peer_host
}

output "port" {
  description = "Port for clients."
  value       = var.port
}

output "role_arn" {
  description = "Role of the tasks."
  value       = aws_ecs_task_definition.this.task_role_arn
}

output "security_group_id" {
  description = "Security group of the tasks, to permit in the one of the database."
  value       = aws_security_group.this.id
}

output "connect_arn" {
  description = "Resource of rds-db:connect, with default_auth_scheme = IAM_AUTH."
  value       = local.connect_arn
}

output "log_group_name" {
  description = "Log group of the tasks."
  value       = aws_cloudwatch_log_group.this.name
}
