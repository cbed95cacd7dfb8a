# Certificates under a self-signed root, in the current folder.
#
#   make -f tools/certs/Makefile.selfsigned.mk root-ca
#   make -f tools/certs/Makefile.selfsigned.mk cluster01-cacerts cluster02-cacerts

include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

.PHONY: root-ca

root-ca: ## make the root: root-key.pem and root-cert.pem
	@'$(tombolo)' certs root-ca

# Each is made by one call, which also completes the root; calls in one folder take turns.
%-cacerts: ## make the intermediate of cluster NAME, in the folder NAME
	@'$(tombolo)' certs cacerts '$*'

%-certs: ## make the certificate of a virtual machine with $SERVICE_ACCOUNT of namespace NAME, in the folder NAME
	@'$(tombolo)' certs workload-certs '$*'
