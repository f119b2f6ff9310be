#!/usr/bin/env bash
# Pack what a GPU machine without network lacks: `tests/gpu/pack.sh [ARCHIVE]`.
#
# The archive holds the site-packages that the notebooks need beside torch, transformers, datasets' pyarrow
# and pandas, and matplotlib, which a GPU image usually has. Unpack it there and put it on PYTHONPATH
# (run.sh does both). Versions are those of requirements-local.txt; the Python version is the GPU machine's.
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
  decorator pexpect ptyprocess platformdirs python-dateutil ipywidgets widgetsnbextension
  jupyterlab-widgets
)
site=build/gpu/site
rm -rf build/gpu && mkdir -p "$site"
pattern=$(IFS='|'; echo "${packages[*]}")
grep -oE "^($pattern)==[^ ;\\]+" requirements-local.txt > build/gpu/wanted.txt
uv pip install --quiet --target "$site" --no-deps --python-version "$python_version" \
  --python-platform x86_64-manylinux_2_28 --only-binary :all: -r build/gpu/wanted.txt
rm -rf "$site"/unsloth/studio "$site"/studio "$site"/bin "$site"/debugpy
find "$site" -name '__pycache__' -prune -exec rm -rf {} +
find "$site/bitsandbytes" -name 'libbitsandbytes_*.so' ! -name "*cuda$cuda*" ! -name '*cpu*' -delete
mkdir -p "$(dirname "$archive")"
XZ_OPT=-6T0 tar -C "$site" -cJf "$archive" .
ls -l "$archive"
