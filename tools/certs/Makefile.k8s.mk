# Certificates under the root of a cluster's own authority, in the current folder.
#
#   make -f tools/certs/Makefile.k8s.mk fetch-root-ca      the cluster of the current context
#   make -f tools/certs/Makefile.k8s.mk cluster02-cacerts

include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

.PHONY: fetch-root-ca

fetch-root-ca: ## get root and key from the Secret istio-ca-secret, else cacerts, in $ISTIO_NAMESPACE
	@'$(tombolo)' certs fetch-root-ca

# Each fetches the root as well where it is not there yet.
%-cacerts: ## make the intermediate of cluster NAME, in the folder NAME
	@'$(tombolo)' certs cacerts --root kubernetes '$*'

%-certs: ## make the certificate of a virtual machine with $SERVICE_ACCOUNT of namespace NAME, in the folder NAME
	@'$(tombolo)' certs workload-certs --root kubernetes '$*'
