# Versions that the module needs. Terraform 1.9 is the first whose validations may refer to other variables.
terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.60"
    }
  }
}
