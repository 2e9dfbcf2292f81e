#!/usr/bin/env bash
# For machines without systemd only (tests of the packages need one that is booted).
#
# Run a command, as root, in a copy of this machine that systemd has booted:
# what it writes, installs and removes is gone with it. The copy has this machine's
# files, and processes, control groups, a network (loopback alone) and services
# of its own: the journal, until the command starts others. systemd need not
# run this machine.
#
#   test/standin/booted-machine.sh COMMAND [ARGUMENT]...
#
# Exit status: the command's, or 3 when this machine cannot boot a copy of
# itself, and the reason on standard error.
set -euo pipefail

cannot() { echo "$*" >&2; exit 3; }
PATH=$PATH:/usr/sbin:/sbin
stage=
case ${1:-} in --copy | --boot) stage=$1 scratch=$2 root=$2/root && shift 2 ;; esac

# Stage 3, the first process of the copy: set up its namespaces, and run systemd.
if [ "$stage" = --boot ]; then
	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
	# The kernel's settings, except for the network, are also those of this machine.
	mount --bind "$root/proc/sys" "$root/proc/sys"
	mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
	mount -o remount,bind,ro "$root/proc/sys"
	# PrivateUsers= needs user namespaces, which a chroot does not have.
	cd "$root"
	pivot_root . .old
	umount --lazy /.old
	rmdir /.old
	mount --make-rshared / # as on a machine
	exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		/lib/systemd/systemd --system --unit=multi-user.target --show-status=no
fi

# Stage 1: check the requirements, and create a mount namespace.
if [ -z "$stage" ]; then
	[ "$(id -u)" -eq 0 ] || cannot "it takes root"
	for program in /lib/systemd/systemd systemctl unshare nsenter pivot_root; do
		command -v "$program" >/dev/null || cannot "there is no $program here"
	done
	why=$(unshare --mount --propagation private --cgroup --pid --fork --uts --ipc --net true 2>&1) || cannot "it takes namespaces: $why"
	scratch=$(mktemp -d)
	trap 'rmdir "$scratch"' EXIT
	unshare --mount --propagation private "$0" --copy "$scratch" "$@"
	exit
fi

# Stage 2: create the files of the copy, boot it, and run the command.
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch"/{upper,work,root,groups}
# The overlay contains the file system of / only; mounts below it are empty.
why=$(mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$root" 2>&1) || cannot "its files take an overlay: $why"
# The cgroup2 hierarchy, which may also be mounted elsewhere.
why=$(mount -t cgroup2 cgroup2 "$scratch/groups" 2>&1) || cannot "it takes control groups of version 2: $why"
for folder in run tmp dev; do
	mkdir -p "$root/$folder"
	mount -t tmpfs -o mode=755 tmpfs "$root/$folder"
done
chmod 1777 "$root/tmp"
for device in null zero full random urandom tty; do
	touch "$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir -p "$root/dev/shm" "$root/dev/pts" "$root/.old" "$root$PWD"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount --bind "$PWD" "$root$PWD"
# Start no services of this machine, and remove a policy that keeps packages from starting
# theirs.
rm -rf "$root"/etc/systemd/system "$root"/lib/systemd/system/*.wants "$root"/lib/systemd/system-generators "$root"/etc/init.d "$root"/usr/sbin/policy-rc.d
mkdir -p "$root/etc/systemd/system/sysinit.target.wants"
ln -s /lib/systemd/system/systemd-journald.service "$root/etc/systemd/system/sysinit.target.wants/"
ln -s /dev/null "$root/etc/systemd/system/systemd-journald-audit.socket" # the kernel's, which is this machine's too
# Without it this would be a first boot, which enables all services.
[ -s "$root/etc/machine-id" ] || tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"

group=$scratch/groups/booted-machine-$$
mkdir "$group"
# unshare ignores signals while it waits; killing it ends the copy.
end() {
	kill -KILL "$machine"
	wait "$machine" || true
	while [ -s "$group/cgroup.procs" ] || grep -q 'populated 1' "$group/cgroup.events"; do sleep 0.1; done
	find "$group" -depth -type d -exec rmdir {} +
} 2>/dev/null
trap end EXIT
sh -c 'echo $$ >"$0/cgroup.procs" && exec unshare --mount --cgroup --pid --fork --kill-child --uts --ipc --net "$@"' \
	"$group" "$0" --boot "$scratch" </dev/null >"$scratch/console" 2>&1 &
machine=$!

inside() { nsenter --target "$first" --mount --cgroup --pid --uts --ipc --net "$@"; }
for ((tries = 0; tries < 300; tries++)); do
	first=$(cat "/proc/$machine/task/$machine/children" 2>/dev/null) || break
	first=${first%% *}
	state=$([ -z "$first" ] || inside systemctl is-system-running 2>/dev/null) || true
	[ "$state" != running ] || break
	sleep 0.1
done
if [ "$state" != running ]; then
	cat "$scratch/console" >&2
	cannot "systemd does not boot${state:+: it is $state}"
fi
inside sh -ec 'cd "$1" && shift && exec "$@"' sh "$PWD" "$@"
