#!/usr/bin/python3
"""What the interval between snapshots costs and buys: repository growth against the time to recover. See README.md.

  curve.py [BATCHES]   16. A batch is TX transactions (400 at SCALE 150) and a checkpoint. For 1, 2, 4, … BATCHES batches between
                       two snapshots: a fresh repository and its first snapshot; BATCHES batches, with the snapshots that are due;
                       then as many batches more as lie between two snapshots: the worst moment for a disaster. The recovery to
                       the end of the log is run, until the server answers with the right data.

Environment: as bench.py; the cluster of `bench.py init` is used and changed."""
import os, re, shutil, sys, time
from bench import B, PGBIN, RPORT, SCALE, TOOL, Tool, fresh, last_round, lsn_now, measure, must, put, q, sizes, stop_agents, workload
import bench


def batches(n, tx, seed, tool=None, every=0):
    """Runs n batches; with a tool, a snapshot after every so many. Returns the seconds that the snapshots took."""
    took = []
    for i in range(1, n + 1):
        workload('curve', tx, seed=f'{seed}{i}')
        if tool and i % every == 0:
            took.append(measure('tool', 'curve_snapshot', tool.backup('S1'), env=tool.env, light=True)['wall_s'])
    return took


def interval(k, n, tx):
    fresh()
    tool, repo, d = Tool(), B + '/repo/tool', B + '/restore/tool'
    tool.init()
    measure('tool', 'curve_full', tool.backup('S0'), repo, env=tool.env)
    base, _ = sizes(repo)
    since = lsn_now()
    took = batches(n, tx, '1', tool, k)
    grown = sizes(repo)[0] - base
    logged = lsn_now() - since
    since = lsn_now()
    batches(k, tx, '2')
    replay = lsn_now() - since
    want = q('select sum(abalance) from pgbench_accounts')
    time.sleep(3)  # the tail of the log is a second old at most
    config = f"{B}/home/holdfast-tool/holdfast.yaml"
    r = measure('tool', 'curve_recovery', [bench.PEERS + '/holdfast', '--config', config, '--no-progress', 'restore', 'bench', '--to', d,
                '--start', '--port', str(RPORT), '--bin-directory', PGBIN], env=tool.env)
    if r['rc']:
        raise SystemExit(r['error'])
    # The server listens in a folder of its own until it is restarted.
    sockets = re.search("host='([^']+)'", open(f'{B}/log/tool.curve_recovery.{bench.ROUND}.log').read()).group(1)
    right = q('select sum(abalance) from pgbench_accounts', RPORT, sockets) == want
    must(f'{PGBIN}/pg_ctl -D {d} -m immediate -w stop')
    shutil.rmtree(d)
    return put(dict(peer='tool', metric='curve', batches=k, log_between_bytes=logged // (n // k), replay_bytes=replay,
                    added_bytes=grown // (n // k), snapshot_s=sum(took) / len(took), recovery_s=r['wall_s'], right=right,
                    growth=round(grown / logged, 4)))


def main(n):
    last_round()
    tx, rows, k = int(os.environ.get('TX', max(8, 400 * SCALE // 150))), [], 1
    while k <= n:
        rows.append(interval(k, n, tx))
        k *= 2
    stop_agents()
    print('\n| batches between snapshots | log between, MB | a snapshot: s | MB added | snapshots add, of the log | log replayed, MB | recovery, s |\n' + '|---' * 7 + '|')
    for r in rows:
        print(f"| {r['batches']} | {r['log_between_bytes'] / 1e6:.0f} | {r['snapshot_s']:.2f} | {r['added_bytes'] / 1e6:.1f} | {100 * r['growth']:.0f} % "
              f"| {r['replay_bytes'] / 1e6:.0f} | {r['recovery_s']:.1f}{'' if r['right'] else ' (WRONG DATA)'} |")


if __name__ == '__main__':
    if not TOOL:
        raise SystemExit('TOOL is not set: see README.md')
    main(int(sys.argv[1]) if sys.argv[1:] else 16)
