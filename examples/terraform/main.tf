# Groups and a release policy of an edgefleet server, kept by Terraform through the REST API. Checked by schema only: docs/operate/terraform.md.
terraform {
  required_providers {
    restapi = {
      source  = "Mastercard/restapi"
      version = ">= 2.0.1"
    }
  }
}

variable "server" {
  type    = string
  default = "https://fleet.example.com"
}

# a token of a service: edgectl token create --name terraform --person terraform --role admin --never
variable "token" {
  type      = string
  sensitive = true
}

provider "restapi" {
  uri                  = var.server
  write_returns_object = true
  headers = {
    Authorization = "Bearer ${var.token}"
    Content-Type  = "application/json"
  }
}

locals {
  group = {
    name     = "hall-3"
    selector = "site=hall-3"
  }
  group_change = {
    selector = "site=hall-3"
  }
  policy = {
    require = ["owner", "licence"]
    models  = ["digits"]
  }
}

resource "restapi_object" "group" {
  path         = "/api/v1/groups"
  id_attribute = "name"
  data         = jsonencode(local.group)

  update_method = "PATCH"
  update_path   = "/api/v1/groups/{id}"
  update_data   = jsonencode(local.group_change)
}

resource "restapi_object" "policy" {
  path      = "/api/v1/release-policies"
  object_id = "owned"
  data      = jsonencode(local.policy)

  create_method  = "PUT"
  create_path    = "/api/v1/release-policies/owned"
  update_method  = "PUT"
  update_path    = "/api/v1/release-policies/{id}"
  destroy_method = "POST"
  destroy_path   = "/api/v1/release-policies/{id}:end"
}
