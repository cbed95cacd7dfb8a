# What both Makefiles share: the program that does the work, and the variables it reads.
#
# Variables are given on make's command line or in the environment; what is not given has the
# default of `tombolo certs`. `make help` lists them.

certs_folder := $(dir $(lastword $(MAKEFILE_LIST)))

# The program named by TOMBOLO, else the one on PATH, else the one built in this repository.
TOMBOLO ?= $(firstword $(shell command -v tombolo) $(wildcard $(certs_folder)../../target/release/tombolo $(certs_folder)../../target/debug/tombolo))
tombolo = $(or $(TOMBOLO),$(error there is no program tombolo: put it on PATH, build it (cargo build --release --bin tombolo), or name it by TOMBOLO=PATH))

variables = ROOTCA_DAYS ROOTCA_KEYSZ ROOTCA_ORG ROOTCA_CN \
  INTERMEDIATE_DAYS INTERMEDIATE_KEYSZ INTERMEDIATE_ORG INTERMEDIATE_CN INTERMEDIATE_SAN_DNS \
  WORKLOAD_DAYS WORKLOAD_CN SERVICE_ACCOUNT ISTIO_NAMESPACE KUBECONFIG
# Only what was given is handed on: an exported variable without a value is an empty one.
$(foreach variable,$(variables),$(if $(filter-out undefined,$(origin $(variable))),$(eval export $(variable))))

.DEFAULT_GOAL := help
.PHONY: help clean

clean: ## remove the root and what it was made from; the folders of clusters stay
	@'$(tombolo)' certs clean

help: ## print this
	@sed -n 's/^\([A-Za-z%-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | sed 's/%/NAME/'
	@echo 'Variables: $(strip $(variables))'
