# Sourced by the scripts of this folder: finds the programs, and sees to it that nothing stays.
#
# `kind` and `istioctl` are links to tombolo, kubectl is the real one. Clusters, kubeconfig and
# files live in a folder of this run's own, unless TOMBOLO_LAB_DIR and KUBECONFIG name others.

repository=$(cd "$(dirname "$0")/../.." && pwd)
samples=$repository/samples

if [ -z "${TOMBOLO:-}" ]; then
  for TOMBOLO in "$(command -v tombolo || true)" "$repository/target/release/tombolo" "$repository/target/debug/tombolo"; do
    [ -x "$TOMBOLO" ] && break
  done
fi
if [ ! -x "$TOMBOLO" ]; then
  echo "there is no tombolo: build it (cargo build --release --bin tombolo), or name it by TOMBOLO=PATH" >&2
  exit 1
fi
TOMBOLO=$(realpath "$TOMBOLO")

work=$(mktemp -d)
chmod 755 "$work"
mkdir "$work/bin"
for name in tombolo kind istioctl; do
  ln -s "$TOMBOLO" "$work/bin/$name"
done
if ! command -v kubectl >/dev/null; then
  if [ ! -x "$repository/tools/kubernetes/bin/kubectl" ]; then
    rm -rf "$work"
    echo "there is no kubectl: install it, or build it (tools/kubernetes/build)" >&2
    exit 1
  fi
  ln -s "$repository/tools/kubernetes/bin/kubectl" "$work/bin/kubectl"
fi
export PATH="$work/bin:$PATH" TOMBOLO
export TOMBOLO_LAB_DIR="${TOMBOLO_LAB_DIR:-$work/lab}" KUBECONFIG="${KUBECONFIG:-$work/kubeconfig}"

created=
clean_up() {
  status=$?
  trap - EXIT
  for cluster in $created; do
    if [ "$status" != 0 ]; then
      kubectl --context "kind-$cluster" get pods,services -A -o wide >&2 || true
    fi
    kind delete cluster --name "$cluster" || status=1
  done
  cd /
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$work"
