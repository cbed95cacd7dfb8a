#!/usr/bin/env python3
"""Writes crates/apiserver/data/builtin-types.txt from a Kubernetes OpenAPI v2 document.

usage: builtin-types.py swagger.json table.rs > builtin-types.txt

Only facts are kept: field names, types, and how lists and maps merge.
"""
import json
import re
import sys

definitions = json.load(open(sys.argv[1]))["definitions"]
rows = re.findall(r'^    \("([^"]*)", "([^"]+)", "([^"]+)", "', open(sys.argv[2]).read(), re.M)
roots = {}
for name, schema in definitions.items():
    for gvk in schema.get("x-kubernetes-group-version-kind", []):
        roots[(gvk["group"], gvk["version"], gvk["kind"])] = name
SCALARS = {("string", None): "s", ("string", "byte"): "y", ("boolean", None): "b", ("integer", "int32"): "i",
           ("integer", "int64"): "l", ("number", "double"): "n", ("object", None): "r"}
SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "q", "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "t",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "T", "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "x",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "r", "io.k8s.apimachinery.pkg.runtime.RawExtension": "r",
}
seen, queue, out = set(), [], []


def short(name):
    for prefix in ("io.k8s.api.", "io.k8s.apimachinery.pkg.apis.", "io.k8s.apiextensions-apiserver.pkg.apis.",
                   "io.k8s.kube-aggregator.pkg.apis."):
        if name.startswith(prefix):
            return name[len(prefix):]
    return name


def typ(schema):
    ref = schema.get("$ref")
    if ref:
        name = ref.rsplit("/", 1)[1]
        if name in SPECIAL:
            return SPECIAL[name]
        target = definitions[name]
        if target.get("type") != "object":
            return "r"
        if name not in seen:
            seen.add(name)
            queue.append(name)
        return "@" + short(name)
    if schema.get("type") == "array":
        return "[]" + typ(schema["items"])
    if "additionalProperties" in schema:
        return "{}" + typ(schema["additionalProperties"])
    return SCALARS[(schema.get("type"), schema.get("format"))]


for row in rows:
    name = roots[row]
    out_root = f"= {row[0]}/{row[1]}/{row[2]} {short(name)}"
    out.append(out_root)
    if name not in seen:
        seen.add(name)
        queue.append(name)
for kind in (("policy", "v1", "Eviction"), ("autoscaling", "v1", "Scale"), ("authentication.k8s.io", "v1", "TokenRequest"),
             ("", "v1", "DeleteOptions")):
    name = roots[kind]
    out.append(f"= {kind[0]}/{kind[1]}/{kind[2]} {short(name)}")
    if name not in seen:
        seen.add(name)
        queue.append(name)
while queue:
    name = queue.pop(0)
    schema = definitions[name]
    atomic = " atomic" if schema.get("x-kubernetes-map-type") == "atomic" else ""
    out.append(short(name) + atomic)
    for field, fs in sorted(schema.get("properties", {}).items()):
        flags = ""
        if field in schema.get("required", []):
            flags += " !"
        if fs.get("x-kubernetes-list-map-keys"):
            flags += " keys=" + ",".join(fs["x-kubernetes-list-map-keys"])
        elif fs.get("x-kubernetes-list-type") == "set":
            flags += " set"
        if fs.get("x-kubernetes-map-type") == "atomic":
            flags += " atomic"
        if fs.get("x-kubernetes-patch-strategy"):
            flags += " patch=" + fs["x-kubernetes-patch-strategy"]
        if fs.get("x-kubernetes-patch-merge-key"):
            flags += " on=" + fs["x-kubernetes-patch-merge-key"]
        out.append(f" {field} {typ(fs)}{flags}")
print("# Field names, types and merge rules of Kubernetes 1.36's built-in kinds; made by tools/builtin-types.py.")
print("# `= group/version/Kind type` names a kind's type; a type's fields are indented below it.")
print("\n".join(out))
