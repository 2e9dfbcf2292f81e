#!/usr/bin/env bash
# For machines without a container registry only, where no clean container can be started.
#
# Run a command, as root, in a copy of this machine: what it writes, installs
# and removes is gone with it. It sees the network and the processes.
#
#   test/standin/scratch-machine.sh COMMAND [ARGUMENT]...
set -euo pipefail

[ "$(id -u)" -eq 0 ] || { echo "this requires root" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rmdir "$scratch"' EXIT
unshare --mount --propagation private bash -ec '
	scratch=$1 folder=$2
	shift 2
	mount -t tmpfs tmpfs "$scratch"
	mkdir "$scratch"/{upper,work,root}
	mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
	# The overlay contains the file system of / only; mounts below it are empty.
	for mounted in /proc /dev /sys "$folder"; do
		[ -d "$scratch/root$mounted" ] || mkdir -p "$scratch/root$mounted"
		mount --rbind "$mounted" "$scratch/root$mounted"
	done
	exec chroot "$scratch/root" sh -ec "cd \"\$1\" && shift && exec \"\$@\"" sh "$folder" "$@"
' bash "$scratch" "$PWD" "$@"
