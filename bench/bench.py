#!/usr/bin/python3
"""Side-by-side benchmark of physical backup tools for PostgreSQL. See README.md.

  bench.py init             make the cluster and its data (once)
  bench.py rounds 3         N rounds: fresh repositories; S0 full, S1 (~1 %), S2 (~10 %), restore, start, delta restore
  bench.py again            the restores of the last round once more
  bench.py wal 200          push and fetch N archived segments
  bench.py report           medians and ratios from results.jsonl
  bench.py stop             stop the cluster

Environment: BENCH_DIR (/var/tmp/bench), PEERS (/var/tmp/bench-peers: pgbackrest, wal-g, restic, kopia, roofline, datagen),
PGBIN, ONLY (comma list of peers), TOOL (a folder of executables: the tool under test, see README.md), SCALE (150).
Run as root: the tools and the servers run as the user postgres."""
import ctypes, glob, json, os, pwd, resource, shutil, statistics, subprocess, sys, threading, time
import psycopg2

B = os.environ.get('BENCH_DIR', '/var/tmp/bench')
PEERS = os.environ.get('PEERS', '/var/tmp/bench-peers')
PGBIN = os.environ.get('PGBIN', '/usr/lib/postgresql/15/bin')
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
W1, W10 = 2700, 30000  # transactions that change about 1 % and 10 % of the pages at SCALE=150


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


def quiet(limit=60):
    """Wait (a minute at most) until others leave the machine idle."""
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
    n = max(0, min(5000, free - 1000))
    subprocess.run(f'dd if=/dev/zero of={B}/restore/.fill bs=1M count={n} 2>/dev/null; rm -f {B}/restore/.fill', shell=True)


def measure(peer, metric, fn, repo=None, work=0, env={}, **extra):
    """fn: a command (list or string) or a callable. Wall, CPU (all reaped descendants), server CPU, peak PSS, sync time."""
    if metric != 'start':
        quiet()
        prefault()
        subprocess.run(['sync'])
        warm(f'{B}/repo/{peer}' if 'restore' in metric else f'{DATA}/base')
    before = du(repo) if repo and os.path.exists(repo) else (0, 0)
    sm = Sampler(postmasters())
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
    while True:  # reap any left-over orphan that has ended
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    c1, s1, b1 = resource.getrusage(resource.RUSAGE_CHILDREN), server_cpu(), busy()
    sm.go = False
    sm.join()
    t1 = time.time()
    subprocess.run(['sync'])
    sync = time.time() - t1
    cpu = c1.ru_utime + c1.ru_stime - c0.ru_utime - c0.ru_stime
    row = dict(peer=peer, metric=metric, rc=rc, wall_s=round(wall, 2), sync_s=round(sync, 2), cpu_s=round(cpu, 2),
               server_cpu_s=round(s1 - s0, 2), peak_mib=round(sm.peak / 1024, 1),
               other_cpu_s=round(b1[0] - b0[0] - cpu - (s1 - s0), 2), steal_s=round(b1[1] - b0[1], 2), **extra)
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


class Tool:
    """The tool under test: executables init, backup, restore and optionally delta, wal-push, wal-fetch in $TOOL."""
    name = 'tool'

    def init(self):
        mkdirs(B + '/repo/tool')
        must([TOOL + '/init'])

    def backup(self, state):
        return [TOOL + '/backup', 'full' if state == 'S0' else 'incr']

    def restore(self, d):
        return [TOOL + '/restore', d]

    def delta(self, d):
        return os.path.exists(TOOL + '/delta') and [TOOL + '/delta', d]


def peers():
    ps = [PgBackRest(), WalG(), Restic(), Kopia(), BaseBackup()] + ([Tool()] if TOOL else [])
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
def init():
    if os.path.exists(DATA):
        raise SystemExit(DATA + ' exists')
    os.makedirs(B, exist_ok=True)
    mkdirs(B, *(f'{B}/{d}' for d in ('log', 'lock', 'spool', 'home', 'restore', 'sock2', 'labels', 'spool-br')))
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
wal_level=replica
archive_mode=on
archive_command='cp %p {SPOOL}/.%f && mv {SPOOL}/.%f {SPOOL}/%f'
""")
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
insert into events values ({n['events']} + :e, now(), 'click', '10.1.2.3', jsonb_build_object('session', md5(random()::text), 'ms', :e));
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


def workload(name, tx):
    q('checkpoint', fetch=False)
    lsn = q('select pg_current_wal_insert_lsn()')[0][0]
    t = time.time()
    must([PGBIN + '/pgbench', '-n', '-c', '4', '-j', '2', '-t', str(tx // 4), f'--random-seed={tx}{ROUND}', '-b', 'tpcb-like@9', '-f', B + '/mix.sql@1', 'bench'])
    q('checkpoint', fetch=False)
    o = subprocess.run([ROOF, '-dir', DATA, '-only', 'lsnscan', '-lsn', lsn], stdout=subprocess.PIPE, text=True).stdout
    n = json.loads(o.splitlines()[1])
    end = q('select pg_current_wal_insert_lsn()')[0][0]
    put(dict(peer='workload', metric=name, transactions=tx, wall_s=round(time.time() - t, 1), changed_pages=n['changed'], pages=n['pages'],
             percent=n['percent'], wal_bytes=int(q(f"select '{end}'::pg_lsn - '{lsn}'::pg_lsn")[0][0])))
    return lsn


def limits(kind, lsn=None):
    """The physical limit in the same run: what a Go pipeline does on these files with all cores, and cp."""
    o = B + '/phys'
    shutil.rmtree(o, ignore_errors=True)
    mkdirs(o)
    quiet()
    prefault()
    warm()
    names = 'read,pipeline_default,pipeline_fastest' if kind == 'full' else 'lsnscan,incr'
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
            measure(p.name, kind, cmd, f'{B}/repo/{p.name}', size())


def restore(p, expect):
    d = f'{B}/restore/{p.name}'
    shutil.rmtree(d, ignore_errors=True)
    mkdirs(d)
    row = measure(p.name, 'restore', p.restore(d), None, size())
    if row['rc']:
        return

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
    t0 = time.time()
    s = measure(p.name, 'start', first_query)
    ok = s['rc'] == 0
    if ok:
        r = dict(peer=p.name, metric='first_query', wall_s=round(row['wall_s'] + s['wall_s'], 2))
        if ROUND == 1:  # is it the right data?
            tot = int(q('select sum(abalance) from pgbench_accounts', RPORT, B + '/sock2')[0][0])
            r['data_as_expected'] = tot == expect
        put(r)
        while q('select pg_is_in_recovery()', RPORT, B + '/sock2')[0][0]:
            time.sleep(.1)
        cmd = getattr(p, 'delta', lambda d: None)(d)
        if cmd:  # dirty ~1 % of the pages of the restored copy, then restore over it
            must([PGBIN + '/pgbench', '-h', B + '/sock2', '-p', str(RPORT), '-n', '-c', '4', '-t', str(W1 // 4), '--random-seed=5', 'bench'])
        must(f'{PGBIN}/pg_ctl -D {d} -m fast -w stop')
        if cmd:
            measure(p.name, 'delta_restore', cmd, None, size())
    else:
        sh(f'{PGBIN}/pg_ctl -D {d} -m fast -w stop')
    shutil.rmtree(d, ignore_errors=True)


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


def rounds(n):
    global ROUND
    last_round()
    for _ in range(n):
        ROUND += 1
        print('## round', ROUND, time.strftime('%H:%M:%S'), flush=True)
        for d in ('repo', 'home', 'labels', 'phys', 'restore'):
            shutil.rmtree(f'{B}/{d}', ignore_errors=True)
            mkdirs(f'{B}/{d}')
        for p in peers():
            p.init()
        backups('S0')
        lsn = workload('w1', W1)
        backups('S1', lsn)
        lsn = workload('w10', W10)
        backups('S2', lsn)
        restores()


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
    if TOOL and os.path.exists(TOOL + '/wal-push'):
        ready(True)
        mkdirs(rp + 'wal-tool')
        e = dict(REPO=rp + 'wal-tool', PGDATA=src)
        must([TOOL + '/init'], **e)
        loop('tool', 'wal_push', rp + 'wal-tool', f'{TOOL}/wal-push {src}/pg_wal/$f', e)
        loop('tool', 'wal_fetch', None, f'{TOOL}/wal-fetch $f {out}/x', e)
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

    def ratio(v, d):
        x = [r['wall_s'] / d[r['metric'], r['round']] for r in v if (r['metric'], r['round']) in d]
        return f'{med(x):.2f}' if x else '-'
    order = [m for m in ('full', 'incr1', 'incr10', 'restore', 'start', 'first_query', 'delta_restore', 'wal_push', 'wal_push_async', 'wal_fetch', 'wal_fetch_async') if m in by]
    cols = [m for m in order if m in ('full', 'incr1', 'incr10', 'restore', 'first_query', 'delta_restore')]
    print('Seconds, min / median (× the fastest peer / × the limit: medians of the ratios within each round)\n\n| peer | ' + ' | '.join(cols) + ' |\n' + '|---' * (len(cols) + 1) + '|')
    for p in sorted({p for m in cols for p in by[m]}, key=lambda p: med(r['wall_s'] for r in by['full'].get(p, [{'wall_s': 1e9}]))):
        print(f'| {p} | ' + ' | '.join(f"{min(r['wall_s'] for r in by[m][p]):.1f} / {med(r['wall_s'] for r in by[m][p]):.1f} ({ratio(by[m][p], fast)} / {ratio(by[m][p], ref)})" if p in by[m] else '-' for m in cols) + ' |')
    print('\n| limit | stage | n | wall s min / median | CPU s | GB/s | out MB |\n|---|---|---|---|---|---|---|')
    for (m, st), v in lim.items():
        w = [r['wall_s'] for r in v]
        print(f"| {m} | {st} | {len(v)} | {min(w):.2f} / {med(w):.2f} | {med(r['cpu_s'] for r in v):.1f} | {med(r['GBps'] for r in v):.2f} | {med(r.get('out', 0) for r in v) / 1e6:.0f} |")
    for m in order:
        print(f'\n**{m}**\n\n| peer | n (disturbed, left out) | wall s min / median | + sync s | CPU s (+ server) | peak MiB | added MB | × fastest peer | × limit |\n|---|---|---|---|---|---|---|---|---|')
        for p, v in sorted(by[m].items(), key=lambda x: med(r['wall_s'] for r in x[1])):
            w = [r['wall_s'] for r in v]
            g = lambda k: med(r.get(k, 0) for r in v)
            out = sum((r['peer'], r['metric']) == (p, m) for r in good) - len(v)
            print(f"| {p} | {len(v)} ({out}) | {min(w):.2f} / {med(w):.2f} | {g('sync_s'):.1f} | {g('cpu_s'):.1f} (+{g('server_cpu_s'):.1f}) | {g('peak_mib'):.0f} | {g('repo_added') / 1e6:.0f} | {ratio(v, fast)} | {ratio(v, ref)} |")
    rates = [r for r in rows if 'segments_per_s' in r and not r['rc']]
    if rates:
        print('\n| peer | command | segments/s (median) |\n|---|---|---|')
        for k in dict.fromkeys((r['peer'], r['metric']) for r in rates):
            print(f"| {k[0]} | {k[1][:-5]} | {med(r['segments_per_s'] for r in rates if (r['peer'], r['metric']) == k):.1f} |")


if __name__ == '__main__':
    a = sys.argv[1:]
    if a[:1] == ['init']:
        init()
    elif a[:1] == ['rounds']:
        rounds(int(a[1]) if a[1:] else 3)
    elif a[:1] == ['again']:
        again()
    elif a[:1] == ['wal']:
        wal(int(a[1]) if a[1:] else 200)
    elif a[:1] == ['report']:
        report()
    elif a[:1] == ['stop']:
        print(must(f'{PGBIN}/pg_ctl -D {DATA} -m fast -w stop'))
    else:
        sys.exit(__doc__)
