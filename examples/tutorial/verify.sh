# Sourced: the sample in both clusters, and ten requests from each. `network01` and `network02`
# are the networks of the clusters.

kubectl create --context="kind-cluster01" namespace sample
kubectl create --context="kind-cluster02" namespace sample

kubectl label --context="kind-cluster01" namespace sample istio-injection=enabled
kubectl label --context="kind-cluster02" namespace sample istio-injection=enabled

kubectl apply --context="kind-cluster01" \
  -f "$samples/helloworld/helloworld.yaml" \
  -l service=helloworld -n sample
kubectl apply --context="kind-cluster02" \
  -f "$samples/helloworld/helloworld.yaml" \
  -l service=helloworld -n sample

kubectl apply --context="kind-cluster01" \
  -f "$samples/helloworld/helloworld.yaml" \
  -l version=v1 -n sample

kubectl apply --context="kind-cluster02" \
  -f "$samples/helloworld/helloworld.yaml" \
  -l version=v2 -n sample

kubectl apply --context="kind-cluster01" \
  -f "$samples/sleep/sleep.yaml" -n sample
kubectl apply --context="kind-cluster02" \
  -f "$samples/sleep/sleep.yaml" -n sample

# `wait` looks only at pods that exist, so the Deployments are asked first.
kubectl --context kind-cluster01 -n sample rollout status deployment --timeout=600s
kubectl --context kind-cluster02 -n sample rollout status deployment --timeout=600s
kubectl --context kind-cluster01 -n sample wait --for=condition=Ready pods -l topology.istio.io/network="$network01" --timeout=600s
kubectl --context kind-cluster02 -n sample wait --for=condition=Ready pods -l topology.istio.io/network="$network02" --timeout=600s

loop01() {
  for i in $(seq 10); do kubectl exec --context="kind-cluster01" -n sample -c sleep "$(kubectl get pod --context="kind-cluster01" -n sample -l app=sleep -o jsonpath='{.items[0].metadata.name}')" -- curl -s helloworld.sample:5000/hello; done
}
loop02() {
  for i in $(seq 10); do kubectl exec --context="kind-cluster02" -n sample -c sleep "$(kubectl get pod --context="kind-cluster02" -n sample -l app=sleep -o jsonpath='{.items[0].metadata.name}')" -- curl -s helloworld.sample:5000/hello; done
}

for cluster in 01 02; do
  # Every request must be answered. Ten random choices of two versions are all the same once in
  # 512 times, so the loop runs up to three times until both have answered.
  : >"answers$cluster"
  for round in 1 2 3; do
    "loop$cluster" | tee -a "answers$cluster"
    answers=$(grep -c '^Hello version: v[12], instance: helloworld-v[12]-' "answers$cluster" || true)
    if [ "$answers" != "${round}0" ]; then
      echo "cluster$cluster: $answers of ${round}0 requests were answered" >&2
      exit 1
    fi
    versions=$(sed 's/^Hello version: \(v[12]\),.*/\1/' "answers$cluster" | sort -u | wc -l)
    [ "$versions" = 2 ] && break
  done
  if [ "$versions" != 2 ]; then
    echo "cluster$cluster: only one version answered" >&2
    exit 1
  fi
done
echo "both versions answered from both clusters"
