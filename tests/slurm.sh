#!/usr/bin/env bash
# A SLURM of one node on this machine: munged, slurmctld and slurmd, as root,
# without systemd or cgroups, which a container lacks. Debian's packages
# slurm-wlm and munge have all of it.
#
#   tests/slurm.sh FOLDER      starts it and writes FOLDER/slurm.conf
#   tests/slurm.sh FOLDER end  ends its jobs and its three daemons
set -eu
folder=$(realpath "$1")
export SLURM_CONF="$folder/slurm.conf"

if [ "${2:-}" = end ]; then
  timeout 10 scancel --full --user=root || true
  sleep 1
  for name in slurmd slurmctld munged; do
    [ ! -f "$folder/$name.pid" ] || kill "$(cat "$folder/$name.pid")" || true
  done
  exit
fi

# two ports that are free now
read -r first second < <(python3 -c '
import socket
some = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in some))')
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool"
head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 400 "$folder/munge.key"
# the folder of a test may be closed to others, which munged dislikes
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
  --seed-file="$folder/munge.seed" 2>> "$folder/munged.log"
cat > "$SLURM_CONF" <<EOF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$first
SlurmdPort=$second
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# what is stated below counts, not what the machine has
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000
PartitionName=all Nodes=$host Default=YES MaxTime=04:00:00
EOF
slurmctld -c
slurmd
for _ in $(seq 100); do
  [ "$(timeout 5 sinfo --noheader --format=%t)" != idle ] || exit 0
  sleep 0.2
done
echo "no idle node after 20 s; see the logs in $folder" >&2
exit 1
