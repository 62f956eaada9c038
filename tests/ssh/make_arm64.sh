#!/usr/bin/env bash
# Make a folder with an arm64 Debian and ONNX Runtime in it, for the tests marked arm64. Run as root on Debian or Ubuntu,
# after: apt-get install debootstrap qemu-user-static
#
#   tests/ssh/make_arm64.sh FOLDER [SUITE [MIRROR]]
#
# Packages are only unpacked, never configured: that is enough for Python, and nothing has to be emulated meanwhile.
set -euo pipefail
folder=${1:?usage: make_arm64.sh FOLDER [SUITE [MIRROR]]}
suite=${2:-bookworm}
mirror=${3:-http://deb.debian.org/debian}
pip=${PIP:-.venv/bin/python -m pip}

debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,libstdc++6,libgomp1 "$suite" "$folder" "$mirror"
for package in "$folder"/var/cache/apt/archives/*.deb; do
  dpkg --extract "$package" "$folder"
done

# Wheels for the Python in that folder, such as usr/bin/python3.11, in the versions that this machine has: then even the
# last digit of an output can be compared. On Ubuntu 18.04 (Python 3.6): WHEELS='numpy==1.19.4 onnxruntime==1.10.0'
pins=$(dirname "${BASH_SOURCE[0]}")/../../constraints.txt
wheels=${WHEELS:-$(grep -E '^(numpy|onnxruntime)==' "$pins" | cut -d ' ' -f 1)}
python=$(cd "$folder/usr/bin" && ls -d python3.[0-9]* | grep -x 'python3\.[0-9]*' | head -n 1)
# shellcheck disable=SC2086
$pip install --quiet --target "$folder/opt/site" --platform manylinux2014_aarch64 --platform manylinux_2_27_aarch64 \
  --platform manylinux_2_28_aarch64 --only-binary=:all: --implementation cp --python-version "${python#python}" \
  --no-deps $wheels

# What a test calls. Without chroot, so without root: qemu looks for libraries in the folder first, then on this machine.
# The processor is that of a Jetson Nano, so that an instruction it lacks ends the program here too.
cat >"$folder/python3" <<END
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")
export QEMU_CPU="\${QEMU_CPU:-cortex-a57}" PYTHONPATH="\$root/opt/site"
exec qemu-aarch64-static -L "\$root" "\$root/usr/bin/$python" "\$@"
END
chmod +x "$folder/python3"
"$folder/python3" -c 'import platform, onnxruntime as ort; print(platform.machine(), platform.python_version(), ort.__version__)'
