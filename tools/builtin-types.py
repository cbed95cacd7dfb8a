#!/usr/bin/env python3
"""Writes crates/apiserver/data/builtin-types.txt from a Kubernetes OpenAPI v2 document.

usage: builtin-types.py swagger.json table.rs generated.proto... types.go... > builtin-types.txt

Only facts are kept: field names and numbers, types, and how lists and maps merge.
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
structs = {}
for path in (path for path in sys.argv[3:] if path.endswith(".go")):
    package = ".".join(path.split("/")[-3:-1])
    for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", open(path).read(), re.M | re.S):
        fields = re.findall(r"^\t(?:(\w+)\s+)?([*\[\]\w.]+)\s+`[^`]*json:\"([^\"]*)\"", body, re.M)
        structs[f"{package}.{name}"] = [(package, *field) for field in fields]


def written(owner):
    """How Go writes a zero value, by field: `*` it is a pointer, `+` even zero, nothing: not at all."""
    found = {}
    for package, _, kind, tag in structs.get(owner, []):
        name, *options = tag.split(",")
        if "inline" in options:
            target = kind.lstrip("*")
            found.update(written(target if "." in target and target in structs else f"{package}.{target}"))
            continue
        if kind.startswith("*"):
            found[name] = "*"
        elif "omitempty" not in options:
            found[name] = "+"
        elif "omitzero" not in options and kind not in SCALAR and not kind.startswith(("[]", "map[")):
            found[name] = "?"
    return found


SCALAR = {"string", "bool", "int32", "int64", "int", "float64"}
messages = {}
for path in (path for path in sys.argv[3:] if path.endswith(".proto")):
    text = open(path).read()
    package = ".".join(re.search(r"^package (.*);", text, re.M).group(1).split(".")[-2:])
    for message, body in re.findall(r"^message (\w+) \{\n(.*?)^\}", text, re.M | re.S):
        fields = re.findall(r"^  (?:optional|repeated|map<.*>)?\s*(?:([\w.]+) )?(\w+) = (\d+);", body, re.M)
        messages[f"{package}.{message}"] = [(package, *field) for field in fields]


def plain(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def numbers(owner, fields):
    """Field numbers by plain name; those of messages that JSON inlines as `outer.inner`."""
    found = {}
    for package, kind, name, number in messages.get(owner, []):
        if plain(name) in fields:
            found[plain(name)] = number
            continue
        last = ".".join(kind.split(".")[-3:]).lstrip(".")
        inner = last if last in messages else f"{package}.{kind}"
        for key, value in numbers(inner, fields).items():
            found.setdefault(key, f"{number}.{value}")
    return found


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
    known = numbers(short(name), {plain(field) for field in schema.get("properties", {})})
    zero = written(short(name))
    if not zero:
        print(f"no struct: {short(name)}", file=sys.stderr)
    for field, fs in sorted(schema.get("properties", {}).items()):
        number = known.get(plain(field))
        if not number and field not in ("apiVersion", "kind"):
            print(f"no number: {short(name)}.{field}", file=sys.stderr)
        flags = f" #{number}" if number else ""
        how = zero.get(field)
        kind = typ(fs)
        # A struct without a pointer is always written; a named string is not when it is empty.
        if how == "?" and (kind.startswith("@") or kind in "tTxq") or how == "+":
            flags += " +"
        elif how == "*":
            flags += " *"
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
        out.append(f" {field} {kind}{flags}")
print("# Field names, types and merge rules of Kubernetes 1.36's built-in kinds; made by tools/builtin-types.py.")
print("# `= group/version/Kind type` names a kind's type; a type's fields are indented below it.")
print("\n".join(out))
