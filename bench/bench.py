#!/usr/bin/python3
"""Side-by-side benchmark of physical backup tools for PostgreSQL. See README.md.

  bench.py init             make the cluster and its data (once)
  bench.py rounds 3         N rounds: fresh repositories; S0 full, S1 (~1 %), S2 (~10 %), restore, start, delta restore
  bench.py again            the restores of the last round once more
  bench.py wal 200          push and fetch N archived segments
  bench.py scale 3          the same change N times in a cluster of SCALE and one of 4 x SCALE: does the cost follow the size?
  bench.py churn 500        N small changes, each with a snapshot of the tool; then restore and prune
  bench.py report           medians and ratios from results.jsonl
  bench.py stop             stop the cluster, and the agents of the tool
  bench.py pg17 [COMMAND]   the same on PostgreSQL 17 in BENCH_DIR-17, beside its own incremental backups;
                            without COMMAND: init where needed, rounds 1, report, stop

Environment: BENCH_DIR (/var/tmp/bench), PEERS (/var/tmp/bench-peers: pgbackrest, wal-g, restic, kopia, roofline, datagen),
PGBIN, PG17BIN ($PEERS/debian/usr/lib/postgresql/17/bin), ONLY (comma list of peers), TOOL (a folder of executables: the tool
under test, see README.md), SCALE (150), TX (transactions of a step of scale and churn), QUIET (60: seconds to wait for a quiet
machine before each measurement, at most).
Run as root: the tools and the servers run as the user postgres."""
import ctypes, glob, json, os, pwd, resource, shutil, signal, statistics, subprocess, sys, threading, time
import psycopg2

ARGS = sys.argv[1:]
B = os.environ.get('BENCH_DIR', '/var/tmp/bench')
PEERS = os.environ.get('PEERS', '/var/tmp/bench-peers')
PGBIN = os.environ.get('PGBIN', '/usr/lib/postgresql/15/bin')
if ARGS[:1] == ['pg17']:
    B += '-17'
    PGBIN = os.environ.get('PG17BIN', PEERS + '/debian/usr/lib/postgresql/17/bin')
    os.environ.setdefault('ONLY', 'pg_incremental,tool')
TOOL = os.environ.get('TOOL', '')
SCALE = int(os.environ.get('SCALE', '150'))
HERE = os.path.dirname(os.path.abspath(__file__))
DATA, SPOOL = B + '/pgdata', B + '/spool'
PORT, RPORT = 54329, 54330
HZ = os.sysconf('SC_CLK_TCK')
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us, so their CPU is counted
PW = pwd.getpwnam('postgres')
BR, RESTIC, WALG, KOPIA, ROOF, GEN = (PEERS + '/' + p for p in ('pgbackrest', 'restic', 'wal-g', 'kopia', 'roofline', 'datagen'))
ENV = dict(PATH=PGBIN + ':/usr/local/bin:/usr/bin:/bin', LC_ALL='C', HOME=B + '/home', TMPDIR=B + '/home',
           PGHOST=B, PGPORT=str(PORT), PGUSER='postgres', PGDATABASE='bench',
           PGBACKREST_CONFIG=B + '/pgbackrest.conf', PGBACKREST_STANZA='main',
           WALG_FILE_PREFIX=B + '/repo/walg', WALG_COMPRESSION_METHOD='zstd', WALG_LIBSODIUM_KEY='11' * 32,
           WALG_LIBSODIUM_KEY_TRANSFORM='hex', WALG_DELTA_MAX_STEPS='6', WALG_UPLOAD_CONCURRENCY='2',
           WALG_UPLOAD_DISK_CONCURRENCY='2', WALG_DOWNLOAD_CONCURRENCY='2',
           RESTIC_REPOSITORY=B + '/repo/restic', RESTIC_PASSWORD='bench', RESTIC_CACHE_DIR=B + '/home/restic-cache',
           KOPIA_PASSWORD='bench', KOPIA_CONFIG_PATH=B + '/home/kopia.config', KOPIA_CACHE_DIRECTORY=B + '/home/kopia-cache',
           KOPIA_LOG_DIR=B + '/home/kopia-log', KOPIA_CHECK_FOR_UPDATES='false',
           PGDATA=DATA, REPO=B + '/repo/tool', KEYDIR=B + '/home', PEERS=PEERS)
ROUND = 0
W1, W10 = max(40, 2700 * SCALE // 150), max(400, 30000 * SCALE // 150)  # transactions that change about 1 % and 10 % of the pages


# ---- running and measuring ----
def sh(cmd, **env):
    return subprocess.run(cmd, shell=isinstance(cmd, str), user=PW.pw_uid, group=PW.pw_gid, extra_groups=[],
                          env=dict(ENV, **env), cwd=B, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')


def must(cmd, **env):
    p = sh(cmd, **env)
    if p.returncode:
        raise SystemExit(f'FAILED {cmd}\n{p.stdout[-2000:]}')
    return p.stdout


def stat(pid):
    try:
        f = open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()
        return int(f[1]), sum(map(int, f[11:13])), sum(map(int, f[13:15]))
    except OSError:
        return None


def tree():
    kids = {}
    for p in os.listdir('/proc'):
        if p.isdigit():
            s = stat(p)
            if s:
                kids.setdefault(s[0], []).append(int(p))
    return kids


def server_cpu():
    try:
        pm = int(open(DATA + '/postmaster.pid').readline())
    except OSError:
        return 0
    s = stat(pm)
    t = s[1] + s[2]
    for c in tree().get(pm, []):
        k = stat(c)
        t += k[1] + k[2] if k else 0
    return t / HZ


def busy():
    f = list(map(int, open('/proc/stat').readline().split()[1:9]))
    return (sum(f) - f[3] - f[4]) / HZ, f[7] / HZ


class Sampler(threading.Thread):
    """Peak of the summed PSS over all our descendants except running servers, every 100 ms."""
    def __init__(self, skip):
        super().__init__(daemon=True)
        self.peak, self.go, self.skip = 0, True, skip

    def run(self):
        while self.go:
            kids, todo, tot = tree(), [os.getpid()], 0
            while todo:
                for c in kids.get(todo.pop(), []):
                    if c in self.skip:
                        continue
                    todo.append(c)
                    try:
                        for l in open(f'/proc/{c}/smaps_rollup'):
                            if l.startswith('Pss:'):
                                tot += int(l.split()[1])
                    except OSError:
                        pass
            self.peak = max(self.peak, tot)
            time.sleep(.1)


def postmasters():
    s = set()
    for d in [DATA] + glob.glob(B + '/restore/*'):
        try:
            s.add(int(open(d + '/postmaster.pid').readline()))
        except (OSError, ValueError):
            pass
    return s


def agents():
    """Roots of the processes that the tool's init left running, by the folder in KEYDIR whose agent.pid names them."""
    a = {}
    for f in glob.glob(B + '/home/*/agent.pid'):
        try:
            pid = int(open(f).read())
            if os.path.dirname(f).encode() in open(f'/proc/{pid}/cmdline', 'rb').read():
                a[pid] = os.path.basename(os.path.dirname(f))
        except (OSError, ValueError):
            pass
    return a


def agent(root):
    """CPU seconds and peak MiB of an agent: the root alone (it may be a loop in shell) and all below it with what they reaped."""
    s, kids, hwm = stat(root), tree(), 0
    t, todo = s[1] if s else 0, list(kids.get(root, []))
    while todo:
        c = todo.pop()
        todo += kids.get(c, [])
        s = stat(c)
        t += s[1] + s[2] if s else 0
        try:
            hwm += sum(int(l.split()[1]) for l in open(f'/proc/{c}/status') if l.startswith('VmHWM'))
        except OSError:
            pass
    return t / HZ, hwm / 1024


def agents_cpu():
    return sum(agent(a)[0] for a in agents())


def stop_agents():
    """Before the repositories go and before the server stops (it waits for whoever receives its log)."""
    for a in agents():
        try:
            os.kill(a, signal.SIGTERM)
            end = time.time() + 30
            while time.time() < end and open(f'/proc/{a}/stat').read().rsplit(')', 1)[1].split()[0] != 'Z':
                time.sleep(.1)
                reap()
        except OSError:
            pass
    reap()


def reap():
    """Reap any left-over orphan that has ended: its CPU is counted from then on."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def du(path):
    """Apparent bytes and number of files, hard links counted once."""
    seen, a, n = set(), 0, 0
    for d, _, fs in os.walk(path):
        for f in fs:
            try:
                s = os.lstat(d + '/' + f)
            except OSError:
                continue
            if s.st_ino not in seen:
                seen.add(s.st_ino)
                a += s.st_size
                n += 1
    return a, n


def put(row):
    row = dict(round=ROUND, **row)
    open(B + '/results.jsonl', 'a').write(json.dumps(row) + '\n')
    print(json.dumps(row), flush=True)
    return row


def quiet(limit=int(os.environ.get('QUIET', '60'))):
    """Wait (QUIET seconds at most, a minute) until others leave the machine idle."""
    end = time.time() + limit
    while time.time() < end:
        b, t = busy()[0], time.time()
        time.sleep(.7)
        if (busy()[0] - b) / (time.time() - t) < .15:
            return


def prefault():
    """Fill and empty the page cache just before a measurement. A virtual machine may give idle memory back to its host, and
    then whoever fills the page cache first pays for it (measured: up to twice the time of a restore, 3.6 s a GiB)."""
    free = int(open('/proc/meminfo').read().split('MemFree:')[1].split()[0]) >> 10
    n = max(0, min(34 * SCALE, free - 1000))
    subprocess.run(f'dd if=/dev/zero of={B}/restore/.fill bs=1M count={n} 2>/dev/null; rm -f {B}/restore/.fill', shell=True)


def measure(peer, metric, fn, repo=None, work=0, env={}, light=False, **extra):
    """fn: a command (list or string) or a callable. Wall, CPU (all reaped descendants), server CPU, peak PSS, sync time.
    light: no waiting, warming and syncing around it, for what is done hundreds of times."""
    if not light and not metric.endswith('start'):
        quiet()
        prefault()
        subprocess.run(['sync'])
        warm(f'{B}/repo/{peer}' if 'restore' in metric else f'{DATA}/base')
    before = du(repo) if repo and os.path.exists(repo) else (0, 0)
    sm = Sampler(postmasters() | set(agents()))
    reap()
    a0 = agents_cpu()
    c0, s0, b0 = resource.getrusage(resource.RUSAGE_CHILDREN), server_cpu(), busy()
    sm.start()
    t0 = time.time()
    out, rc = '', 0
    if callable(fn):
        try:
            out = fn() or ''
        except Exception as e:
            rc, out = 1, repr(e)
    else:
        p = sh(fn, **env)
        rc, out = p.returncode, p.stdout
    wall = time.time() - t0
    reap()
    c1, s1, b1 = resource.getrusage(resource.RUSAGE_CHILDREN), server_cpu(), busy()
    a1 = agents_cpu()
    sm.go = False
    sm.join()
    t1 = time.time()
    if not light:
        subprocess.run(['sync'])
    sync = time.time() - t1
    cpu = c1.ru_utime + c1.ru_stime - c0.ru_utime - c0.ru_stime
    row = dict(peer=peer, metric=metric, rc=rc, wall_s=round(wall, 2), sync_s=round(sync, 2), cpu_s=round(cpu, 2),
               server_cpu_s=round(s1 - s0, 2), peak_mib=round(sm.peak / 1024, 1),
               agent_cpu_s=round(a1 - a0, 2), other_cpu_s=round(b1[0] - b0[0] - cpu - (s1 - s0) - (a1 - a0), 2), steal_s=round(b1[1] - b0[1], 2), **extra)
    if repo:
        a = du(repo)
        row.update(repo_bytes=a[0], repo_added=a[0] - before[0], repo_files=a[1])
    if work:
        row['MBps'] = round(work / wall / 1e6, 1)
    if rc:
        row['error'] = out[-700:]
    open(f'{B}/log/{peer}.{metric}.{ROUND}.log', 'w').write(str(out))
    return put(row)


def q(sql, port=PORT, host=B, fetch=True):
    c = psycopg2.connect(host=host, port=port, user='postgres', dbname='bench')
    c.autocommit = True
    k = c.cursor()
    k.execute(sql)
    r = k.fetchall() if fetch else None
    c.close()
    return r


def mkdirs(*ds):
    for d in ds:
        os.makedirs(d, exist_ok=True)
        os.chown(d, PW.pw_uid, PW.pw_gid)
        os.chmod(d, 0o700)


# ---- the peers ----
def labelled(peer, state, cmd):
    """Tools that copy files: pg_backup_start, the tool, pg_backup_stop (all of it measured). The label is kept aside."""
    def f():
        c = psycopg2.connect(host=B, port=PORT, user='postgres', dbname='bench')
        c.autocommit = True
        k = c.cursor()
        k.execute("select pg_backup_start('b', true)")
        p = sh(cmd)
        k.execute('select labelfile from pg_backup_stop(false)')
        open(f'{B}/labels/{peer}', 'w').write(k.fetchone()[0])
        c.close()
        if p.returncode:
            raise RuntimeError(p.stdout[-600:])
        return p.stdout
    return f


class PgBackRest:
    name = 'pgbackrest'

    def init(self):
        must([BR, 'stanza-create'])

    def backup(self, state):
        return [BR, 'backup', '--no-archive-check', '--type=' + ('full' if state == 'S0' else 'incr')]

    def restore(self, d):
        return [BR, '--pg1-path=' + d, '--type=none', 'restore']

    def delta(self, d):
        return [BR, '--pg1-path=' + d, '--type=none', '--delta', 'restore']


class WalG:
    name = 'walg'

    def init(self):
        mkdirs(B + '/repo/walg')

    def backup(self, state):
        return [WALG, 'backup-push', DATA] + (['--full'] if state == 'S0' else [])

    def restore(self, d):
        return [WALG, 'backup-fetch', d, 'LATEST']


class Restic:
    name = 'restic'

    def init(self):
        must([RESTIC, 'init', '--repository-version', '2'])

    def backup(self, state):
        return labelled(self.name, state, [RESTIC, 'backup', DATA, '--exclude', DATA + '/pg_wal/*', '--exclude', DATA + '/postmaster.pid'])

    def version(self):
        return [int(x) for x in must([RESTIC, 'version']).split()[1].split('.')[:2]]

    def restore(self, d):
        if self.version() >= [0, 16]:
            return [RESTIC, 'restore', 'latest:' + DATA, '--target', d]
        # Older ones restore the whole path below the target; moving it up renames a few names.
        return f'set -e; {RESTIC} restore latest --target {d}; mv {d}{DATA}/* {d}/; rm -r {d}/{DATA.split("/")[1]}'

    def delta(self, d):
        return self.version() >= [0, 17] and self.restore(d) + ['--delete']


class Kopia:
    name = 'kopia'

    def init(self):
        must([KOPIA, 'repository', 'create', 'filesystem', '--path', B + '/repo/kopia'])
        must([KOPIA, 'policy', 'set', '--global', '--compression=zstd-fastest', '--add-ignore=/pg_wal/*', '--add-ignore=/postmaster.pid'])

    def backup(self, state):
        return labelled(self.name, state, [KOPIA, 'snapshot', 'create', '--no-progress', DATA])

    def restore(self, d):
        out = must(f'{KOPIA} snapshot list --json {DATA} 2>/dev/null')
        return [KOPIA, 'snapshot', 'restore', '--no-progress', json.loads(out)[-1]['id'], d]


class BaseBackup:
    name = 'pg_basebackup'

    def init(self):
        mkdirs(B + '/repo/pg_basebackup')

    def backup(self, state):
        return state == 'S0' and [PGBIN + '/pg_basebackup', '-D', B + '/repo/pg_basebackup/b', '-c', 'fast', '-X', 'fetch', '-Ft', '--compress=client-zstd:level=3,workers=2']

    def restore(self, d):
        return f'tar -C {d} -I "zstd -T2" -xf {B}/repo/pg_basebackup/b/base.tar.zst'


class PgIncremental:
    """PostgreSQL 17's own incrementals: tars as pg_basebackup makes them; a restore unpacks them all and combines them."""
    name = 'pg_incremental'
    repo = B + '/repo/pg_incremental'

    def init(self):
        mkdirs(self.repo)

    def backup(self, state):
        n = len(os.listdir(self.repo))
        return [PGBIN + '/pg_basebackup', '-D', f'{self.repo}/{n:03}', '-c', 'fast', '-X', 'fetch', '-Ft', '--compress=client-zstd:level=3,workers=2'] + \
            (['--incremental', f'{self.repo}/{n - 1:03}/backup_manifest'] if state != 'S0' else [])

    def restore(self, d):
        ns = sorted(os.listdir(self.repo))
        return f'set -e; for n in {" ".join(ns)}; do mkdir -p {d}.parts/$n; tar -C {d}.parts/$n -I "zstd -T2" -xf {self.repo}/$n/base.tar.zst; ' \
            f'cp {self.repo}/$n/backup_manifest {d}.parts/$n/; done; {PGBIN}/pg_combinebackup {" ".join(f"{d}.parts/{n}" for n in ns)} -o {d}; rm -r {d}.parts'


class Tool:
    """The tool under test: executables init, backup, restore and optionally delta, optimize, prune in $TOOL, and
    the command lines wal-push.command and wal-fetch.command."""
    def __init__(self, name='tool'):
        self.name, self.env = name, dict(REPO=f'{B}/repo/{name}')

    def init(self):
        mkdirs(f'{B}/repo/{self.name}')
        must([TOOL + '/init'], **self.env)

    def backup(self, state):
        return [TOOL + '/backup', 'full' if state == 'S0' else 'incr']

    def restore(self, d):
        return [TOOL + '/restore', d]

    def delta(self, d):
        return os.path.exists(TOOL + '/delta') and [TOOL + '/delta', d]


def peers():
    ps = [PgBackRest(), WalG(), Restic(), Kopia(), BaseBackup()] + ([Tool()] if TOOL else [])
    if os.path.exists(PGBIN + '/pg_combinebackup'):
        ps.append(PgIncremental())
    only = [o for o in os.environ.get('ONLY', '').split(',') if o]
    ps = [p for p in ps if not only or p.name in only]
    program = dict(pgbackrest=BR, walg=WALG, restic=RESTIC, kopia=KOPIA)
    absent = [p.name for p in ps if p.name in program and not os.path.exists(program[p.name])]
    if absent:
        print('## not installed, left out:', ', '.join(absent), flush=True)
    ps = [p for p in ps if p.name not in absent]
    k = ROUND % len(ps)  # another one begins in every round
    return ps[k:] + ps[:k]


# ---- steps ----
def configure():
    """pgBackRest's configuration, for the version that is there now."""
    # Bundles came with pgBackRest 2.39, block incrementals with 2.46.
    v = subprocess.run([BR, 'version'], stdout=subprocess.PIPE, text=True).stdout.split()[-1:] if os.path.exists(BR) else []
    v = [int(x) for x in v[0].split('.')[:2]] if v else [0, 0]
    extra = ('repo1-bundle=y\n' if v >= [2, 39] else '') + ('repo1-block=y\n' if v >= [2, 46] else '')
    open(B + '/pgbackrest.conf', 'w').write(f'''[global]
repo1-path={B}/repo/pgbackrest
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=benchbenchbench
{extra}repo1-retention-full=9
process-max=2
compress-type=zst
compress-level=3
start-fast=y
cmd={BR}
log-path={B}/log
lock-path={B}/lock
spool-path={B}/spool-br
log-level-console=info
log-level-file=off
[main]
pg1-path={DATA}
pg1-port={PORT}
pg1-socket-path={B}
pg1-user=postgres
''')
    os.chown(B + '/pgbackrest.conf', PW.pw_uid, PW.pw_gid)


def init():
    if os.path.exists(DATA):
        raise SystemExit(DATA + ' exists')
    os.makedirs(B, exist_ok=True)
    mkdirs(B, *(f'{B}/{d}' for d in ('log', 'lock', 'spool', 'home', 'restore', 'sock2', 'labels', 'spool-br')))
    must(f'{PGBIN}/initdb -D {DATA} -U postgres -k -A trust --locale=C -E UTF8')
    open(DATA + '/postgresql.conf', 'a').write(f"""
port={PORT}
listen_addresses=''
unix_socket_directories='{B}'
shared_buffers=512MB
maintenance_work_mem=512MB
max_wal_size=6GB
checkpoint_timeout=30min
autovacuum=off
jit=off
wal_level=replica
archive_mode=on
archive_command='cp %p {SPOOL}/.%f && mv {SPOOL}/.%f {SPOOL}/%f'
""" + ('summarize_wal=on\n' if os.path.exists(PGBIN + '/pg_combinebackup') else ''))
    must(f'{PGBIN}/pg_ctl -D {DATA} -l {B}/pg.log -w -o "-c fsync=off -c archive_command=/bin/true -c max_wal_size=20GB -c synchronous_commit=off" start')
    must('createdb bench')
    open(B + '/schema.sql', 'w').write('''
create table orders(id bigint, customer uuid, created timestamptz, doc jsonb);
create table articles(id bigint, title text, body text);
create table events(id bigint, ts timestamptz, kind text, ip inet, payload jsonb);''')
    must(f'psql -qf {B}/schema.sql')
    f = SCALE / 150
    n = dict(orders=int(1250000 * f), articles=int(420000 * f), events=int(2000000 * f))
    must(f'''set -e; ({PGBIN}/pgbench -i -I dtGp -s {SCALE} -q bench; psql -qc "vacuum (freeze, analyze)") >{B}/log/init1 2>&1 & a=$!
for t in orders articles events; do case $t in orders) n={n['orders']};; articles) n={n['articles']};; *) n={n['events']};; esac
 {GEN} -table $t -rows $n -seed 3 | psql -qc "copy $t from stdin with (freeze off)"; done
psql -qc "alter table orders add primary key(id)" -c "create index on orders(customer)" -c "alter table articles add primary key(id)" -c "alter table events add primary key(id)" -c "create index on events(ts)"
wait $a; psql -qc "vacuum (freeze, analyze)" -c checkpoint''')
    must(f'{PGBIN}/pg_ctl -D {DATA} -m fast -w stop')
    open(B + '/mix.sql', 'w').write(f"""\\set o random_exponential(1, {n['orders']}, 5)
\\set e random(1, 1000000000)
begin;
update orders set doc = jsonb_set(doc, '{{status}}', to_jsonb('upd' || :e)) where id = :o;
insert into events values ({n['events']} + :e, now(), 'click', '10.1.2.3', jsonb_build_object('session', md5(random()::text), 'ms', :e)) on conflict do nothing;
end;
""")
    start()
    put(dict(peer='cluster', metric='init', bytes=du(DATA)[0] - du(DATA + '/pg_wal')[0], relations=q("select relname, pg_total_relation_size(oid) from pg_class where relkind='r' and relnamespace='public'::regnamespace order by 2 desc")))


def start():
    if not os.path.exists(DATA + '/postmaster.pid'):
        must(f'{PGBIN}/pg_ctl -D {DATA} -l {B}/pg.log -w start')


def size():
    return du(DATA)[0] - du(DATA + '/pg_wal')[0]


def warm(d=DATA + '/base'):
    subprocess.run(f'find {d} -type f -print0 | xargs -0 -r cat > /dev/null', shell=True)


def workload(name, tx, seed='', stages='lsnscan'):
    """tx transactions between two checkpoints; returns where the log was before them, and what a yardstick in stages said."""
    q('checkpoint', fetch=False)
    lsn = q('select pg_current_wal_insert_lsn()')[0][0]
    t = time.time()
    must([PGBIN + '/pgbench', '-n', '-c', '4', '-j', '2', '-t', str(tx // 4), f'--random-seed={tx}{ROUND}{seed}', '-b', 'tpcb-like@9', '-f', B + '/mix.sql@1', 'bench'])
    q('checkpoint', fetch=False)
    o = subprocess.run([ROOF, '-dir', DATA, '-only', stages, '-lsn', lsn], stdout=subprocess.PIPE, text=True).stdout
    o = {j['stage'].split('(')[0]: j for j in map(json.loads, o.splitlines())}
    n, y = o['lsncount'], o.get('yardstick', {})
    end = q('select pg_current_wal_insert_lsn()')[0][0]
    put(dict(peer='workload', metric=name, transactions=tx, wall_s=round(time.time() - t, 1), changed_pages=n['changed'], pages=n['pages'],
             percent=n['percent'], wal_bytes=int(q(f"select '{end}'::pg_lsn - '{lsn}'::pg_lsn")[0][0]), **({'compressed': y['out']} if y else {})))
    return lsn, y.get('out', 0)


def limits(kind, lsn=None):
    """The physical limit in the same run: what a Go pipeline does on these files with all cores, and cp."""
    o = B + '/phys'
    shutil.rmtree(o, ignore_errors=True)
    mkdirs(o)
    quiet()
    prefault()
    warm()
    names = 'read,pipeline_default,pipeline_fastest' if kind == 'full' else 'lsnscan,incr,yardstick'
    p = sh([ROOF, '-dir', DATA, '-out', o, '-only', names] + (['-lsn', lsn] if lsn else []))
    for l in p.stdout.splitlines():
        try:
            put(dict(peer='limit', metric=kind, **json.loads(l)))
        except ValueError:
            print(l)
    if kind == 'full':
        shutil.rmtree(o)
        mkdirs(o)
        measure('cp', 'full', f'cp -r {DATA}/base {DATA}/global {o}/', work=size())
    shutil.rmtree(o)


def backups(state, lsn=None):
    kind = {'S0': 'full', 'S1': 'incr1', 'S2': 'incr10'}[state]
    limits(kind, lsn)
    for p in peers():
        cmd = p.backup(state)
        if cmd:
            q('checkpoint', fetch=False)
            if p.name == 'pg_basebackup':
                open(B + '/labels/sum0', 'w').write(str(q('select sum(abalance) from pgbench_accounts')[0][0]))
            measure(p.name, kind, cmd, f'{B}/repo/{p.name}', size(), getattr(p, 'env', {}))


def restore(p, expect, prefix='', delta=True, check=False):
    d = f'{B}/restore/{p.name}'
    shutil.rmtree(d, ignore_errors=True)
    mkdirs(d)
    row = measure(p.name, prefix + 'restore', p.restore(d), None, size(), getattr(p, 'env', {}))
    if row['rc']:
        shutil.rmtree(d + '.parts', ignore_errors=True)
        return row

    def finish():
        if os.path.exists(f'{B}/labels/{p.name}'):
            shutil.copy(f'{B}/labels/{p.name}', d + '/backup_label')
            os.chown(d + '/backup_label', PW.pw_uid, PW.pw_gid)
        mkdirs(d + '/pg_wal', d + '/pg_wal/archive_status')
        os.chmod(d, 0o700)
        if os.path.exists(d + '/postmaster.pid'):
            os.unlink(d + '/postmaster.pid')
        open(d + '/postgresql.auto.conf', 'a').write(f"\nport={RPORT}\nunix_socket_directories='{B}/sock2'\narchive_mode=off\n"
            f"restore_command='cp {SPOOL}/%f %p'\nrecovery_target='immediate'\nrecovery_target_action='promote'\n")
        for f in ('postgresql.auto.conf', 'recovery.signal'):
            open(f'{d}/{f}', 'a').close()
            os.chown(f'{d}/{f}', PW.pw_uid, PW.pw_gid)

    log = f'{B}/log/{p.name}.server.{ROUND}.log'

    def first_query():
        finish()
        subprocess.Popen([PGBIN + '/postgres', '-D', d], user=PW.pw_uid, group=PW.pw_gid, extra_groups=[], env=ENV, cwd=B,
                         stdout=open(log, 'w'), stderr=subprocess.STDOUT)
        end = time.time() + 90
        while time.time() < end:
            try:
                return str(q('select count(*) from pgbench_branches', RPORT, B + '/sock2'))
            except psycopg2.Error as e:
                last = e
                time.sleep(.02)
        raise RuntimeError(repr(last) + open(log).read()[-500:])
    s = measure(p.name, prefix + 'start', first_query)
    ok = s['rc'] == 0
    if ok:
        r = dict(peer=p.name, metric=prefix + 'first_query', wall_s=round(row['wall_s'] + s['wall_s'], 2))
        if check or ROUND == 1:  # is it the right data?
            tot = int(q('select sum(abalance) from pgbench_accounts', RPORT, B + '/sock2')[0][0])
            r['data_as_expected'] = tot == expect
        put(r)
        while q('select pg_is_in_recovery()', RPORT, B + '/sock2')[0][0]:
            time.sleep(.1)
        cmd = delta and getattr(p, 'delta', lambda d: None)(d)
        if cmd:  # dirty ~1 % of the pages of the restored copy, then restore over it
            must([PGBIN + '/pgbench', '-h', B + '/sock2', '-p', str(RPORT), '-n', '-c', '4', '-t', str(W1 // 4), '--random-seed=5', 'bench'])
        must(f'{PGBIN}/pg_ctl -D {d} -m fast -w stop')
        if cmd:
            measure(p.name, prefix + 'delta_restore', cmd, None, size(), getattr(p, 'env', {}))
    else:
        sh(f'{PGBIN}/pg_ctl -D {d} -m fast -w stop')
    shutil.rmtree(d, ignore_errors=True)
    return row


def restores():
    now = q('select sum(abalance) from pgbench_accounts')[0][0]
    for p in peers():
        restore(p, int(open(B + '/labels/sum0').read()) if p.name == 'pg_basebackup' else int(now))


def last_round():
    global ROUND
    start()
    try:
        ROUND = max(json.loads(l)['round'] for l in open(B + '/results.jsonl'))
    except (OSError, ValueError):
        pass


def fresh():
    """Empty repositories for a new round; the agents of the last one are ended before theirs goes."""
    global ROUND
    ROUND += 1
    print('## round', ROUND, time.strftime('%H:%M:%S'), flush=True)
    stop_agents()
    for d in ('repo', 'home', 'labels', 'phys', 'restore'):
        shutil.rmtree(f'{B}/{d}', ignore_errors=True)
        mkdirs(f'{B}/{d}')
    configure()


def lsn_now():
    return int(q("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0][0])


def streamed(since):
    """What the tool's agents took since they began, and what they received: a row each."""
    for a, name in agents().items():
        cpu, mib = agent(a)
        age = float(open('/proc/uptime').read().split()[0]) - int(open(f'/proc/{a}/stat').read().rsplit(')', 1)[1].split()[19]) / HZ
        put(dict(peer='tool', metric='stream', agent=name, seconds=round(age), cpu_s=round(cpu, 2), peak_mib=round(mib, 1), wal_bytes=lsn_now() - since))


def rounds(n):
    last_round()
    for _ in range(n):
        fresh()
        since = lsn_now()
        for p in peers():
            p.init()
        backups('S0')
        lsn, _ = workload('w1', W1)
        backups('S1', lsn)
        lsn, _ = workload('w10', W10)
        backups('S2', lsn)
        restores()
        streamed(since)


def stepping():
    ps = peers()
    return ps if os.environ.get('ONLY') else [p for p in ps if p.name in ('pgbackrest', 'walg', 'pg_incremental', 'tool')]


def step(what):
    """A part of scale, in one of its clusters: fresh repositories and a full, or a change and an incremental."""
    last_round()
    if what == 'full':
        fresh()
        for p in stepping():
            p.init()
            measure(p.name, 'full', p.backup('S0'), f'{B}/repo/{p.name}', size(), getattr(p, 'env', {}))
        return
    lsn, _ = workload('step', int(os.environ.get('TX', W1)), seed=str(time.time_ns() % 10000))
    limits('incr1', lsn)
    for p in stepping():
        if cmd := p.backup('S1'):
            q('checkpoint', fetch=False)
            measure(p.name, 'incr1', cmd, f'{B}/repo/{p.name}', size(), getattr(p, 'env', {}))


def scale(n):
    """Two clusters, one four times the other; the same number of the same transactions between two snapshots, in turn."""
    ks, tx = (1, 4), os.environ.get('TX', str(W1))

    def run(k, *what):
        subprocess.run([sys.executable, os.path.abspath(__file__), *what], check=True,
                       env=dict(os.environ, BENCH_DIR=f'{B}-x{k}', SCALE=str(SCALE * k), TX=tx))
    for k in ks:
        if not os.path.exists(f'{B}-x{k}/pgdata'):
            run(k, 'init')
        run(k, 'step', 'full')
    for _ in range(n):
        for k in ks:
            run(k, 'step', 'incr')
    for k in ks:
        run(k, 'stop')
    med, got, by = statistics.median, {}, {}
    for k in ks:
        rows = [json.loads(l) for l in open(f'{B}-x{k}/results.jsonl')]
        rows = [r for r in rows if r['round'] == max(r['round'] for r in rows)]
        by[k] = [r for r in rows if r['peer'] == 'workload']
        for r in rows:
            if 'wall_s' in r and r.get('rc', 0) == 0 and r['metric'] in ('full', 'incr1'):
                name = 'limit: ' + r['stage'].split('(')[0] if r['peer'] == 'limit' else r['peer']
                got.setdefault((r['metric'], name), {}).setdefault(k, []).append(r)
    print('\n' + '; '.join(f"SCALE {SCALE * k}: {med(r['pages'] for r in by[k]) / 131072:.1f} GiB, {med(r['changed_pages'] for r in by[k]):.0f} pages changed ({med(r['percent'] for r in by[k]):.2f} %) by {tx} transactions" for k in ks))
    print('\n| what | peer | s, SCALE | s, 4 x SCALE | ratio | CPU: SCALE | 4 x SCALE | ratio | MB added: SCALE | 4 x SCALE |\n' + '|---' * 10 + '|')
    for (m, name), v in sorted(got.items()):
        if len(v) == 2:
            w, c, a = ([med(r.get(f, 0) for r in v[k]) for k in ks] for f in ('wall_s', 'cpu_s', 'repo_added'))
            x = med(b['wall_s'] / max(a['wall_s'], .01) for a, b in zip(*(v[k] for k in ks)))
            print(f'| {m} | {name} | {w[0]:.2f} | {w[1]:.2f} | {x:.2f} | {c[0]:.2f} | {c[1]:.2f} | {c[1] / max(c[0], .01):.2f} | {a[0] / 1e6:.1f} | {a[1] / 1e6:.1f} |')


def sizes(repo):
    """Bytes of a repository of the tool: without its log, and its log."""
    log = sum(du(d)[0] for d in glob.glob(repo + '/**/log', recursive=True))
    return du(repo)[0] - log, log


def churn(n):
    """n small changes with a snapshot of the tool after each; then: what does the long chain cost?"""
    last_round()
    fresh()
    since, tool, other = lsn_now(), Tool(), Tool('fresh')
    tx, repo, med = int(os.environ.get('TX', max(8, 400 * SCALE // 150))), B + '/repo/tool', statistics.median
    tool.init()
    full = measure('tool', 'churn_full', tool.backup('S0'), repo, size(), tool.env)
    base = ideal = sizes(repo)[0]
    rows, behind = [], []
    for i in range(n):
        for f in sorted(f for f in os.listdir(SPOOL) if len(f) == 24)[:-64]:
            os.unlink(f'{SPOOL}/{f}')  # nobody needs it any more
        _, y = workload('churn', tx, seed=str(i), stages='lsnscan,yardstick')
        rows.append(measure('tool', 'churn', tool.backup('S1'), repo, size(), tool.env, light=True, step=i, compressed=y))
        if os.path.exists(TOOL + '/optimize'):  # what the tool does behind a snapshot by itself
            behind.append(measure('tool', 'churn_optimize', [TOOL + '/optimize'], repo, 0, tool.env, light=True, step=i))
        ideal += y
    content, log = sizes(repo)
    streamed(since)
    other.init()
    new = measure('fresh', 'churn_full', other.backup('S0'), f'{B}/repo/fresh', size(), other.env)
    now = int(q('select sum(abalance) from pgbench_accounts')[0][0])
    back = {tool: [], other: []}
    for _ in range(2):  # in turn
        for p in back:
            back[p].append(restore(p, now, 'churn_', delta=False, check=True))
    a, b = ([r['wall_s'] for r in v if r['rc'] == 0] or [0] for v in back.values())
    out = dict(steps=n, transactions=tx, failed=sum(r['rc'] != 0 for r in rows + behind), full_s=full['wall_s'], full_again_s=new['wall_s'],
               snapshot_s=med(r['wall_s'] for r in rows), first_s=med(r['wall_s'] for r in rows[:10]), last_s=med(r['wall_s'] for r in rows[-10:]),
               snapshot_cpu_s=med(r['cpu_s'] for r in rows), optimize_s=med([r['wall_s'] for r in behind] or [0]),
               optimize_sum_s=sum(r['wall_s'] for r in behind), optimize_added_bytes=sum(r['repo_added'] for r in behind),
               peak_mib=max(r['peak_mib'] for r in rows + behind), full_peak_mib=full['peak_mib'],
               repo_bytes=content + log, log_bytes=log, ideal_bytes=ideal, bytes_ratio=round(content / ideal, 3),
               added_ratio=round((content - base) / max(ideal - base, 1), 3),
               restore_s=min(a), fresh_restore_s=min(b), restore_ratio=round(min(a) / max(min(b), .01), 3))
    if os.path.exists(TOOL + '/prune'):
        keep = max(1, n // 2)
        r = measure('tool', 'churn_prune', [TOOL + '/prune', str(keep)], repo, env=tool.env)
        content, log = sizes(repo)
        out.update(prune_keep=keep, prune_rc=r['rc'], prune_s=r['wall_s'], prune_cpu_s=r['cpu_s'], prune_peak_mib=r['peak_mib'], pruned_repo_bytes=content + log, pruned_log_bytes=log)
        out.update(pruned_restore_s=restore(tool, now, 'churn_pruned_', delta=False, check=True)['wall_s'])
    put(dict(peer='tool', metric='churn_summary', **{k: round(v, 3) for k, v in out.items()}))


def again():
    """The restores of the last round once more, as a round of their own."""
    global ROUND
    last_round()
    ROUND += 1
    limits('full')
    restores()


def wal(n):
    """n archived segments: pushed one command a segment, as archive_command does, then fetched."""
    start()
    while len([f for f in os.listdir(SPOOL) if len(f) == 24]) < n + 1:
        must([PGBIN + '/pgbench', '-n', '-c', '4', '-j', '2', '-t', '20000', 'bench'])
        q('select pg_switch_wal()')
        time.sleep(2)
    tail = sorted(f for f in os.listdir(SPOOL) if len(f) == 24)[-n:]
    src, out, rp = B + '/walsrc', B + '/walout', B + '/repo/'
    for d in [src, out] + glob.glob(rp + 'wal-*'):
        shutil.rmtree(d, ignore_errors=True)
    mkdirs(src, src + '/pg_wal', src + '/global', out)
    shutil.copy(DATA + '/global/pg_control', src + '/global/')
    shutil.copy(DATA + '/PG_VERSION', src)
    for f in tail:
        shutil.copy(f'{SPOOL}/{f}', src + '/pg_wal/')

    def ready(yes):
        for d in ('archive_status', 'walg_data'):
            shutil.rmtree(f'{src}/pg_wal/{d}', ignore_errors=True)
        mkdirs(src + '/pg_wal/archive_status')
        if yes:
            for f in tail:
                open(f'{src}/pg_wal/archive_status/{f}.ready', 'w').close()
        subprocess.run(['chown', '-R', 'postgres:', src])
    byt, names = n << 24, ' '.join(tail)

    def loop(peer, metric, repo, cmd, env={}):
        r = measure(peer, metric, f'set -e; for f in {names}; do {cmd}; done', repo, byt, env, segments=n)
        put(dict(peer=peer, metric=metric + '_rate', rc=r['rc'], segments_per_s=round(n / r['wall_s'], 2)))
    ready(False)
    mkdirs(rp + 'wal-cp')
    loop('cp', 'wal_push', rp + 'wal-cp', f'cp {src}/pg_wal/$f {rp}wal-cp/$f')
    loop('cp', 'wal_fetch', None, f'cp {rp}wal-cp/$f {out}/x')
    for m, a in (('', ''), ('_async', ' --archive-async')) if os.path.exists(BR) else ():
        o = f'{BR} --log-level-console=warn --repo1-path={rp}wal-br{m} --pg1-path={src}'
        must(f'{o} stanza-create --no-online')
        ready(m != '')
        shutil.rmtree(B + '/spool-br')
        mkdirs(B + '/spool-br')
        loop('pgbackrest', 'wal_push' + m, f'{rp}wal-br{m}', f'{o}{a} archive-push {src}/pg_wal/$f')
        loop('pgbackrest', 'wal_fetch' + m, None, f'{o}{a} archive-get $f {out}/x')
    for m in ('', '_async') if os.path.exists(WALG) else ():
        mkdirs(f'{rp}wal-walg{m}')
        ready(m != '')
        e = dict(WALG_FILE_PREFIX=f'{rp}wal-walg{m}', PGDATA=src)
        loop('walg', 'wal_push' + m, f'{rp}wal-walg{m}', f'{WALG} wal-push {src}/pg_wal/$f', e)
    if os.path.exists(WALG):
        loop('walg', 'wal_fetch', None, f'{WALG} wal-fetch $f {out}/$f; rm {out}/$f', e)
    if TOOL and os.path.exists(TOOL + '/wal-push.command'):
        ready(True)
        mkdirs(rp + 'wal-tool')
        e = dict(REPO=rp + 'wal-tool', PGDATA=src)
        must([TOOL + '/init'], **e)
        line = lambda name, p: open(f'{TOOL}/{name}.command').read().strip().replace('%f', '$f').replace('%p', p)
        loop('tool', 'wal_push', rp + 'wal-tool', line('wal-push', src + '/pg_wal/$f'), e)
        loop('tool', 'wal_fetch', None, line('wal-fetch', out + '/x'), e)
    for d in [src, out] + glob.glob(rp + 'wal-*'):
        shutil.rmtree(d, ignore_errors=True)


def report():
    """Markdown: one table of medians and ratios, then one table a metric. A ratio is taken in its own round; the median of them is shown."""
    med = statistics.median
    rows = [json.loads(l) for l in open(os.environ.get('RESULTS', B + '/results.jsonl'))]
    lim, by, fast = {}, {}, {}
    for r in rows:
        if r['peer'] == 'limit' and 'wall_s' in r:
            lim.setdefault((r['metric'], r['stage'].split('(')[0]), []).append(r)
    good = [r for r in rows if 'wall_s' in r and r.get('rc', 0) == 0 and r['peer'] not in ('limit', 'workload', 'cluster')]
    # others' CPU above a quarter of a core while it ran: the timing is disturbed, and left out where an undisturbed one exists
    loud = {(r['round'], r['peer'], r['metric']) for r in good if r.get('other_cpu_s', 0) > 0.25 * r['wall_s'] and r['metric'] != 'start'}
    loud |= {(a, b, 'first_query') for a, b, c in loud if c == 'restore'}
    key = lambda r: (r['round'], r['peer'], r['metric'])
    some = {k[1:] for k in map(key, good) if k not in loud}
    for r in good:
        if key(r) not in loud or key(r)[1:] not in some:
            by.setdefault(r['metric'], {}).setdefault(r['peer'], []).append(r)
            if r['peer'] not in ('cp', 'pg_basebackup', 'tool'):
                k = r['metric'], r['round']
                fast[k] = min(fast.get(k, 1e9), r['wall_s'])
    stage = {'full': ('full', 'pipeline_fastest'), 'incr1': ('incr1', 'incr_pages'), 'incr10': ('incr10', 'incr_pages'),
             'restore': ('full', 'restore_one_writer_a_file'), 'first_query': ('full', 'restore_one_writer_a_file')}
    ref = {(m, r['round']): r['wall_s'] for m, k in stage.items() for r in lim.get(k, [])}
    yard = {(m, r['round']): r['out'] for (m, st), v in lim.items() if st == 'yardstick' for r in v}

    def ratio(v, d):
        x = [r['wall_s'] / d[r['metric'], r['round']] for r in v if (r['metric'], r['round']) in d]
        return f'{med(x):.2f}' if x else '-'

    def changed(v):  # bytes added, over the compressed size of the changed pages
        x = [r['repo_added'] / yard[r['metric'], r['round']] for r in v if yard.get((r['metric'], r['round'])) and 'repo_added' in r]
        return f'{med(x):.2f}' if x else '-'
    order = [m for m in ('full', 'incr1', 'incr10', 'restore', 'start', 'first_query', 'delta_restore', 'wal_push', 'wal_push_async', 'wal_fetch', 'wal_fetch_async') if m in by]
    cols = [m for m in order if m in ('full', 'incr1', 'incr10', 'restore', 'first_query', 'delta_restore')]
    print('Seconds, min / median (× the fastest peer / × the limit: medians of the ratios within each round)\n\n| peer | ' + ' | '.join(cols) + ' |\n' + '|---' * (len(cols) + 1) + '|')
    for p in sorted({p for m in cols for p in by[m]}, key=lambda p: med(r['wall_s'] for r in by['full'].get(p, [{'wall_s': 1e9}]))):
        print(f'| {p} | ' + ' | '.join(f"{min(r['wall_s'] for r in by[m][p]):.1f} / {med(r['wall_s'] for r in by[m][p]):.1f} ({ratio(by[m][p], fast)} / {ratio(by[m][p], ref)})" if p in by[m] else '-' for m in cols) + ' |')
    print('\n| limit | stage | n | wall s min / median | CPU s | GB/s | out MB |\n|---|---|---|---|---|---|---|')
    for (m, st), v in lim.items():
        w = [r['wall_s'] for r in v]
        print(f"| {m} | {st} | {len(v)} | {min(w):.2f} / {med(w):.2f} | {med(r['cpu_s'] for r in v):.1f} | {med(r['GBps'] for r in v):.2f} | {med(r.get('out', 0) for r in v) / 1e6:.1f} |")
    for m in order:
        print(f'\n**{m}**\n\n| peer | n (disturbed, left out) | wall s min / median | + sync s | CPU s (+ server) | peak MiB | added MB | × changed pages | × fastest peer | × limit |\n|---|---|---|---|---|---|---|---|---|---|')
        for p, v in sorted(by[m].items(), key=lambda x: med(r['wall_s'] for r in x[1])):
            w = [r['wall_s'] for r in v]
            g = lambda k: med(r.get(k, 0) for r in v)
            out = sum((r['peer'], r['metric']) == (p, m) for r in good) - len(v)
            print(f"| {p} | {len(v)} ({out}) | {min(w):.2f} / {med(w):.2f} | {g('sync_s'):.1f} | {g('cpu_s'):.1f} (+{g('server_cpu_s'):.1f}) | {g('peak_mib'):.0f} | {g('repo_added') / 1e6:.1f} | {changed(v)} | {ratio(v, fast)} | {ratio(v, ref)} |")
    stream = [r for r in rows if r['metric'] == 'stream']
    if stream:
        print('\n| round | agent | it ran, s | its CPU, s | log received, MB | CPU s a GB | peak MiB |\n|---|---|---|---|---|---|---|')
        for r in stream:
            print(f"| {r['round']} | {r['agent']} | {r['seconds']} | {r['cpu_s']:.2f} | {r['wal_bytes'] / 1e6:.0f} | {r['cpu_s'] / max(r['wal_bytes'] / 1e9, 1e-6):.1f} | {r['peak_mib']:.0f} |")
    for r in rows:
        if r['metric'] == 'churn_summary':
            print(f"\n**churn**, round {r['round']}\n\n| | |\n|---|---|")
            for k, v in r.items():
                if k not in ('round', 'peer', 'metric'):
                    print(f"| {k} | {v / 1e6:.1f} MB |" if k.endswith('_bytes') else f'| {k} | {v} |')
    rates = [r for r in rows if 'segments_per_s' in r and not r['rc']]
    if rates:
        print('\n| peer | command | segments/s (median) |\n|---|---|---|')
        for k in dict.fromkeys((r['peer'], r['metric']) for r in rates):
            print(f"| {k[0]} | {k[1][:-5]} | {med(r['segments_per_s'] for r in rates if (r['peer'], r['metric']) == k):.1f} |")


if __name__ == '__main__':
    a = ARGS
    if a[:1] == ['pg17']:
        if not os.path.exists(PGBIN + '/pg_combinebackup'):
            raise SystemExit(f'no PostgreSQL 17 in {PGBIN}: bench/debian-peers gets one, PG17BIN names another')
        a = a[1:]
        if not a:
            if not os.path.exists(DATA):
                init()
            rounds(1)
            report()
            a = ['stop']
    if a[:1] == ['init']:
        init()
    elif a[:1] == ['rounds']:
        rounds(int(a[1]) if a[1:] else 3)
    elif a[:1] == ['again']:
        again()
    elif a[:1] == ['wal']:
        wal(int(a[1]) if a[1:] else 200)
    elif a[:1] == ['step']:
        step(a[1])
    elif a[:1] == ['scale']:
        scale(int(a[1]) if a[1:] else 3)
    elif a[:1] == ['churn']:
        churn(int(a[1]) if a[1:] else 500)
    elif a[:1] == ['report']:
        report()
    elif a[:1] == ['stop']:
        stop_agents()
        print(must(f'{PGBIN}/pg_ctl -D {DATA} -m fast -w stop'))
    else:
        sys.exit(__doc__)
