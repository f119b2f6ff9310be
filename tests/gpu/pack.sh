#!/usr/bin/env bash
# Pack what a GPU machine without network lacks: `tests/gpu/pack.sh [ARCHIVE]`.
#
# The archive holds the site-packages that the notebooks need beside torch, transformers, datasets' pyarrow
# and pandas, and matplotlib, which a GPU image usually has; run.sh unpacks it there. Versions are those of
# requirements-local.txt. PYTHON_VERSION and CUDA are the GPU machine's: see README.md in this folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
archive=${1:-build/gpu-site-packages.tar.xz}
python_version=${PYTHON_VERSION:-3.12}
cuda=${CUDA:-130}
packages=(
  unsloth unsloth-zoo trl peft bitsandbytes datasets torchao cut-cross-entropy
  dill multiprocess xxhash sacrebleu portalocker tabulate
  colorama gguf nest-asyncio einops
  nbclient nbformat fastjsonschema jsonschema jsonschema-specifications referencing rpds-py attrs
  ipykernel ipython jupyter-client jupyter-core traitlets comm debugpy tornado pyzmq psutil matplotlib-inline
  ipython-pygments-lexers jedi parso prompt-toolkit wcwidth stack-data executing asttokens pure-eval
  pexpect ptyprocess platformdirs python-dateutil ipywidgets widgetsnbextension
  jupyterlab-widgets
)
fail() {
  echo "$*" >&2
  exit 1
}
for package in "${packages[@]}"; do
  grep -q "^$package==" requirements-local.txt || fail "$package is not in requirements-local.txt."
done
# Only this folder: beside it lie results that nobody may have collected yet.
site=build/gpu/site
rm -rf "$site" && mkdir -p "$site"
pattern=$(IFS='|'; echo "${packages[*]}")
grep -oE "^($pattern)==[^ ;\\]+" requirements-local.txt > build/gpu/wanted.txt
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
