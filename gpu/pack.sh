#!/usr/bin/env bash
# Pack what a GPU machine without network lacks: `gpu/pack.sh [ARCHIVE]`.
#
# The archive holds the pinned packages of requirements/requirements-local.txt, without those that a GPU image has
# of its own (PyTorch, what belongs to it, and the largest) and those that only a browser or a test needs. run.sh
# unpacks it there. PYTHON_VERSION and CUDA are the GPU machine's: see README.md in this folder.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=requirements/requirements-local.txt
archive=${1:-build/gpu-site-packages.tar.xz}
python_version=${PYTHON_VERSION:-3.12}
cuda=${CUDA:-130}
of_the_image=(
  setuptools wheel sympy mpmath networkx jinja2 markupsafe typing-extensions # PyTorch asks for them
  pyarrow pandas transformers                                                # large
)
not_needed=(
  jupyterlab jupyterlab-server jupyterlab-pygments jupyter-builder jupyter-events jupyter-lsp jupyter-server
  jupyter-server-terminals notebook-shim nbconvert nbval playwright greenlet ruff uv pytest pytest-xdist execnet pluggy iniconfig
  coverage hypothesis sortedcontainers babel argon2-cffi argon2-cffi-bindings arrow async-lru
  beautifulsoup4 bleach defusedxml fqdn isoduration json5 jsonpointer lark mistune overrides pandocfilters
  prometheus-client python-json-logger rfc3339-validator rfc3986-validator rfc3987-syntax send2trash soupsieve
  terminado tinycss2 uri-template webcolors webencodings websocket-client cffi pycparser pydantic pydantic-core
  annotated-types typing-inspection pytz tzdata nest-asyncio2
)
fail() {
  echo "$*" >&2
  exit 1
}
left_out=("${of_the_image[@]}" "${not_needed[@]}")
for package in "${left_out[@]}"; do
  grep -q "^$package==" "$lock" || fail "$package is not in $lock."
done
# Only this folder: beside it lie results that nobody may have collected yet.
site=build/gpu/site
rm -rf "$site" && mkdir -p "$site"
pattern=$(IFS='|'; echo "${left_out[*]}")
grep -oE "^[a-z0-9-]+==[^ ;\\]+" "$lock" | grep -vE "^($pattern)==" > build/gpu/wanted.txt
uv pip install --quiet --target "$site" --no-deps --python-version "$python_version" \
  --python-platform x86_64-manylinux_2_28 --only-binary :all: -r build/gpu/wanted.txt
rm -rf "$site"/unsloth/studio "$site"/studio "$site"/bin "$site"/debugpy
find "$site" -name '__pycache__' -prune -exec rm -rf {} +
library="libbitsandbytes_cuda$cuda.so"
choices=$(find "$site/bitsandbytes" -name 'libbitsandbytes_cuda*.so' | grep -oE '[0-9]+\.so$' | sort -n)
[ -f "$site/bitsandbytes/$library" ] ||
  fail "bitsandbytes has no library for CUDA=$cuda; it has:" ${choices//.so/}
find "$site/bitsandbytes" -name 'libbitsandbytes_*.so' ! -name "$library" ! -name '*cpu*' -delete
mkdir -p "$(dirname "$archive")"
XZ_OPT=-6T0 tar -C "$site" -cJf "$archive" .
ls -l "$archive"
[ "$(wc -c < "$archive")" -lt 60000000 ] || fail "$archive has 60 MB or more: too large to carry."
