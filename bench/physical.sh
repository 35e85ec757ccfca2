#!/bin/bash
# Physical limits on the same files. Usage: physical.sh  (as root; BENCH_DIR, PEERS as for bench.py). One JSON line a stage.
B=${BENCH_DIR:-/var/tmp/bench}; PEERS=${PEERS:-/var/tmp/bench-peers}; D=$B/pgdata
O=$B/phys; rm -rf $O; mkdir -p $O
N=$(find $D -path $D/pg_wal -prune -o -type f -printf '%s\n' | awk '{s+=$1}END{print s}')
files() { find $D -path $D/pg_wal -prune -o -type f -print0; }
evict() { python3 - "$D" <<'P'
import os,sys
for d,_,fs in os.walk(sys.argv[1]):
    for f in fs:
        try:
            h=os.open(d+'/'+f,os.O_RDONLY); os.fsync(h); os.posix_fadvise(h,0,0,os.POSIX_FADV_DONTNEED); os.close(h)
        except OSError: pass
P
}
t() { # name, command: wall and CPU by GNU time
  sync; /usr/bin/time -o $O/.t -f '%e %U %S %M' bash -c "$2" >/dev/null 2>$O/.err; rc=$?
  s0=$(date +%s.%N); sync; s1=$(date +%s.%N)
  awk -v n="$1" -v N=$N -v rc=$rc -v y=$(echo "$s1-$s0"|bc -l 2>/dev/null || echo 0) 'END{printf "{\"stage\":\"%s\",\"rc\":%d,\"wall_s\":%.2f,\"cpu_s\":%.2f,\"maxrss_kib\":%d,\"sync_s\":%.2f,\"GBps\":%.3f}\n",n,rc,$1,$2+$3,$4,y,N/$1/1e9}' $O/.t
}
export -f files; export D B O
echo "{\"stage\":\"input\",\"bytes\":$N}"
evict; t cat_cold 'files | xargs -0 cat > /dev/null'
t cat_warm 'files | xargs -0 cat > /dev/null'
t cat_warm_2proc 'files | xargs -0 -P2 -n8 cat > /dev/null'
t cp_r "cp -r $D $O/cp"; rm -rf $O/cp
t cp_r_then_sync "cp -r $D $O/cp && sync"; rm -rf $O/cp
t tar_null "tar -C $D --exclude=./pg_wal -cf - . | cat > /dev/null"
t tar_zstd1_T2 "tar -C $D --exclude=./pg_wal -cf - . | zstd -1 -T2 -q > $O/t.zst"; stat -c '{"stage":"tar_zstd1_T2_bytes","bytes":%s}' $O/t.zst
t tar_zstd3_T2 "tar -C $D --exclude=./pg_wal -cf - . | zstd -3 -T2 -q > $O/t.zst"; stat -c '{"stage":"tar_zstd3_T2_bytes","bytes":%s}' $O/t.zst
t unzstd_tar "mkdir -p $O/x && zstd -dc -q $O/t.zst | tar -C $O/x -xf -"; rm -rf $O/x $O/t.zst
t sha256sum_1proc 'files | xargs -0 sha256sum'
t sha256sum_2proc 'files | xargs -0 -P2 -n8 sha256sum'
for a in aes-256-gcm aes-256-cbc; do openssl speed -seconds 2 -bytes 1048576 -evp $a 2>/dev/null | awk -v a=$a 'END{printf "{\"stage\":\"openssl_%s_1core\",\"GBps\":%.3f}\n",a,$NF/1e6}'; done
openssl speed -seconds 2 -bytes 1048576 -evp aes-256-cbc -decrypt 2>/dev/null | awk 'END{printf "{\"stage\":\"openssl_cbc_decrypt_1core\",\"GBps\":%.3f}\n",$NF/1e6}'
dd if=/dev/zero of=$O/dd bs=1M count=4096 conv=fsync 2>&1 | awk -F, 'END{printf "{\"stage\":\"dd_write_4GiB_fsync\",\"text\":\"%s\"}\n",$NF}'; rm -f $O/dd
# single stages; the whole pipelines are measured by bench.py in every round
$PEERS/roofline -dir $D -out $O -only ${STAGES:-read,lsnscan,pgchecksum,sha256,blake3,zstd_fastest,zstd_default,aesgcm,memwrite}
rm -rf $O
