# Sourced: one root, an intermediate for each cluster, as the Secret `cacerts`.

mkdir -p certs
cd certs
make -f "$repository/tools/certs/Makefile.selfsigned.mk" root-ca
make -f "$repository/tools/certs/Makefile.selfsigned.mk" cluster01-cacerts
make -f "$repository/tools/certs/Makefile.selfsigned.mk" cluster02-cacerts

kubectl --context kind-cluster01 create namespace istio-system
kubectl --context kind-cluster01 create secret generic cacerts -n istio-system \
  --from-file=cluster01/ca-cert.pem \
  --from-file=cluster01/ca-key.pem \
  --from-file=cluster01/root-cert.pem \
  --from-file=cluster01/cert-chain.pem

kubectl --context kind-cluster02 create namespace istio-system
kubectl --context kind-cluster02 create secret generic cacerts -n istio-system \
  --from-file=cluster02/ca-cert.pem \
  --from-file=cluster02/ca-key.pem \
  --from-file=cluster02/root-cert.pem \
  --from-file=cluster02/cert-chain.pem
cd ..
