#!/bin/bash
# agent.sh DIR - run every DIR/ctl/N.cmd: they come numbered 1, 2, ... and run in parallel, each in a subshell, with its
# output in N.out and its status in N.rc. DIR/up says that we are ready.
mkfifo /run/tick
exec 9<>/run/tick # nothing ever comes: a sleep without a fork
cd "$1/ctl" || exit 1
echo up >../up
n=1 ticks=0
while :; do
  while [ -e $n.cmd ]; do
    { (. ./$n.cmd) >$n.out 2>&1 </dev/null 9<&-; echo $? >$n.rc; } &
    n=$((n + 1))
  done
  read -r -t 0.05 -u 9
  # bash collects dead children, ours and the orphans, only when it waits for one
  [ $((ticks = (ticks + 1) % 10)) -ne 0 ] || (:)
done
