#!/bin/bash
# The tutorial's commands for the model: separate networks, a control plane per cluster.
# docs/tutorial.md says what differs from the tutorial, and why.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
. "$repository/examples/tutorial/clusters.sh"
. "$repository/examples/tutorial/certificates.sh"

kubectl --context="kind-cluster01" label namespace istio-system topology.istio.io/network=network1

cat <<EOF > cluster01.yaml
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  meshConfig:
    accessLogFile: /dev/stdout
    accessLogEncoding: JSON
    accessLogFormat: '{"authority":"%REQ(:AUTHORITY)%","bytes_received":"%BYTES_RECEIVED%","bytes_sent":"%BYTES_SENT%","downstream_local_address":"%DOWNSTREAM_LOCAL_ADDRESS%","downstream_remote_address":"%DOWNSTREAM_REMOTE_ADDRESS%","duration":"%DURATION%","istio_policy_status":"%DYNAMIC_METADATA(istio.mixer:status)%","method":"%REQ(:METHOD)%","path":"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%","protocol":"%PROTOCOL%","request_id":"%REQ(X-REQUEST-ID)%","requested_server_name":"%REQUESTED_SERVER_NAME%","response_code":"%RESPONSE_CODE%","response_flags":"%RESPONSE_FLAGS%","route_name":"%ROUTE_NAME%","start_time":"%START_TIME%","trace_id":"%REQ(X-B3-TRACEID)%","upstream_cluster":"%UPSTREAM_CLUSTER%","upstream_host":"%UPSTREAM_HOST%","upstream_local_address":"%UPSTREAM_LOCAL_ADDRESS%","upstream_service_time":"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%","upstream_transport_failure_reason":"%UPSTREAM_TRANSPORT_FAILURE_REASON%","user_agent":"%REQ(USER-AGENT)%","x_forwarded_for":"%REQ(X-FORWARDED-FOR)%"}'
  values:
    global:
      meshID: mesh1
      multiCluster:
        clusterName: cluster01
      network: network1
      logAsJson: true
EOF
istioctl install --context="kind-cluster01" -f cluster01.yaml -y

"$samples/multicluster/gen-eastwest-gateway.sh" \
  --mesh mesh1 --cluster cluster01 --network network1 |
  istioctl --context=kind-cluster01 install -y -f -
kubectl --context=kind-cluster01 -n istio-system wait svc/istio-eastwestgateway --for=jsonpath='{.status.loadBalancer.ingress[0].ip}' --timeout=600s
kubectl --context=kind-cluster01 get svc istio-eastwestgateway -n istio-system

kubectl --context="kind-cluster01" apply -n istio-system -f \
  "$samples/multicluster/expose-services.yaml"

kubectl --context="kind-cluster02" label namespace istio-system topology.istio.io/network=network2

cat <<EOF > cluster02.yaml
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  meshConfig:
    accessLogFile: /dev/stdout
    accessLogEncoding: JSON
    accessLogFormat: '{"authority":"%REQ(:AUTHORITY)%","bytes_received":"%BYTES_RECEIVED%","bytes_sent":"%BYTES_SENT%","downstream_local_address":"%DOWNSTREAM_LOCAL_ADDRESS%","downstream_remote_address":"%DOWNSTREAM_REMOTE_ADDRESS%","duration":"%DURATION%","istio_policy_status":"%DYNAMIC_METADATA(istio.mixer:status)%","method":"%REQ(:METHOD)%","path":"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%","protocol":"%PROTOCOL%","request_id":"%REQ(X-REQUEST-ID)%","requested_server_name":"%REQUESTED_SERVER_NAME%","response_code":"%RESPONSE_CODE%","response_flags":"%RESPONSE_FLAGS%","route_name":"%ROUTE_NAME%","start_time":"%START_TIME%","trace_id":"%REQ(X-B3-TRACEID)%","upstream_cluster":"%UPSTREAM_CLUSTER%","upstream_host":"%UPSTREAM_HOST%","upstream_local_address":"%UPSTREAM_LOCAL_ADDRESS%","upstream_service_time":"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%","upstream_transport_failure_reason":"%UPSTREAM_TRANSPORT_FAILURE_REASON%","user_agent":"%REQ(USER-AGENT)%","x_forwarded_for":"%REQ(X-FORWARDED-FOR)%"}'
  values:
    global:
      meshID: mesh1
      multiCluster:
        clusterName: cluster02
      network: network2
      logAsJson: true
EOF
istioctl install --context="kind-cluster02" -f cluster02.yaml -y

"$samples/multicluster/gen-eastwest-gateway.sh" \
  --mesh mesh1 --cluster cluster02 --network network2 |
  istioctl --context=kind-cluster02 install -y -f -
kubectl --context=kind-cluster02 -n istio-system wait svc/istio-eastwestgateway --for=jsonpath='{.status.loadBalancer.ingress[0].ip}' --timeout=600s
kubectl --context=kind-cluster02 get svc istio-eastwestgateway -n istio-system

kubectl --context="kind-cluster02" apply -n istio-system -f \
  "$samples/multicluster/expose-services.yaml"

istioctl create-remote-secret \
  --context="kind-cluster01" \
  --name=cluster01 |
  kubectl apply -f - --context="kind-cluster02"

istioctl create-remote-secret \
  --context="kind-cluster02" \
  --name=cluster02 |
  kubectl apply -f - --context="kind-cluster01"

network01=network1 network02=network2
. "$repository/examples/tutorial/verify.sh"
