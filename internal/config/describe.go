package config

import (
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// The description of holdfast.yaml: every key once, with its meaning, its default and its kind.

var file = object[Config]{
	key("version", formatVersion, func(c *Config) *int { return &c.Version },
		"The version of this file's format: 1.").must(),
	key("sites", dict[string, dr.Site]{site}, func(c *Config) *map[string]dr.Site { return &c.Sites },
		"Places that can be lost as a whole. Without any there is one, here.").or("{}"),
	key("repositories", dict[string, Repository]{repository}, func(c *Config) *map[string]Repository { return &c.Repositories },
		"Stores of snapshots and logs.").or("{}"),
	key("systems", dict[dr.SystemName, System]{system}, func(c *Config) *map[dr.SystemName]System { return &c.Systems },
		"What is protected.").or("{}"),
	key("policies", dict[string, Policy]{policy}, func(c *Config) *map[string]Policy { return &c.Policies },
		"When and how systems are protected. Without any there is one, standard, with every default.").or("{}"),
	key("agent", agent, func(c *Config) *Agent { return &c.Agent },
		"How holdfast agent runs on this machine.").or("{}"),
}

var site = object[dr.Site]{
	key("jurisdiction", word, func(s *dr.Site) *string { return &s.Jurisdiction },
		"Whose law holds there, such as EU."),
}

var repository = object[Repository]{
	key("replicas", list[Replica]{replica}, func(r *Repository) *[]Replica { return &r.Replicas },
		"The repository's replicas, each at a site of its own. Snapshots and log are written to the first; the others get copies.").must(),
	key("keys", keys, func(r *Repository) *Keys { return &r.Keys },
		"Where the secrets are found that open the repository.").or("{}"),
	key("cache", absolutePath, func(r *Repository) *string { return &r.Cache },
		"Directory for what may be read again from a replica; it can be lost.").or("/var/cache/holdfast"),
}

var replica = object[Replica]{
	key("site", name, func(r *Replica) *string { return &r.Site },
		"The site at which the replica is.").or("here"),
	key("url", location, func(r *Replica) *Location { return &r.URL },
		"file:///directory, s3://bucket/prefix?region=R&endpoint=URL&path-style=true, gs://bucket/prefix?key-file=FILE, azblob://account/container/prefix?key-file=FILE, "+
			"or sftp://user@host:port/directory?identity-file=FILE. Credentials are found the way the tools of AWS, Google and Azure find them, SSH keys and known hosts the way OpenSSH does.").must(),
	key("parity", share, func(r *Replica) *Share { return &r.Parity },
		"Reed-Solomon parity to keep beside what is stored, of its bytes: so much damage heals without another site. 0%, or 1% to 90%.").or("0%"),
	key("lock", lock, func(r *Replica) *Lock { return &r.Lock },
		"That nothing can be removed from a bucket with versioning and Object Lock (docs/credentials.md), not with the credentials of the database's host either. Left out, everything can.").or("{}"),
	key("scrub", scrub, func(r *Replica) *Scrub { return &r.Scrub },
		"How the agent reads everything over and over, to find damage while another copy is good.").or("{}"),
}

var scrub = object[Scrub]{
	key("budget", pace, func(s *Scrub) *dr.Pace { return &s.Budget },
		"How much is read: a share of the replica such as 5%/day, bytes such as 50GiB/day or 20MiB/s, or off. Left out, 5%/day in a directory, and off elsewhere, where reading may be billed (docs/cost.md)."),
	key("window", window(), func(s *Scrub) *time.Duration { return &s.Window },
		"In how much time every byte is to be read again: what is told is measured against it. Left out, as long as the budget takes, or 30 days where that is in bytes."),
}

var lock = object[Lock]{
	key("mode", lockMode(), func(l *Lock) *LockMode { return &l.Mode },
		"governance: who has the right s3:BypassGovernanceRetention can end it. compliance: nobody can, not the account's owner, and it is paid for until its end."),
	key("for", objective(), func(l *Lock) *time.Duration { return &l.For },
		"How long at least each object stays: from its writing on, and from the time on at which the repository does not need it any more. Objects are locked for half as long again, and renewed only now and then."),
}

var keys = object[Keys]{
	key("passphrase-file", absolutePath, func(k *Keys) *string { return &k.PassphraseFile },
		"File that holds the passphrase; only its owner, or its group, may read it."),
	key("passphrase-environment", variable, func(k *Keys) *string { return &k.PassphraseEnvironment },
		"Name of the environment variable that holds the passphrase."),
	key("identity-files", list[string]{absolutePath}, func(k *Keys) *[]string { return &k.IdentityFiles },
		"Files of age identities, tried in this order."),
}

var system = object[System]{
	key("repository", name, func(s *System) *string { return &s.Repository },
		"The repository that keeps the system's snapshots and log.").or("main"),
	key("residency", name, func(s *System) *string { return &s.Residency },
		"Residency group: systems of one group may share packs; data of two groups never mix.").or("main"),
	key("jurisdictions", list[string]{word}, func(s *System) *[]string { return &s.Jurisdictions },
		"Jurisdictions of the sites at which the system's data may be, such as [EU, CH]. Left out, it may be anywhere."),
	key("policy", name, func(s *System) *string { return &s.Policy },
		"The policy by which the system is protected.").or("standard"),
	key("postgres", postgres, func(s *System) *Postgres { return &s.Postgres },
		"The PostgreSQL cluster.").must(),
	key("verify", systemVerify, func(s *System) *SystemVerify { return &s.Verify },
		"What restore tests need to know of the system.").or("{}"),
}

var postgres = object[Postgres]{
	key("connection", connection, func(p *Postgres) *Connection { return &p.Connection },
		"Connection string of PostgreSQL, as keywords or as a URL, without a password.").must(),
	key("data-directory", absolutePath, func(p *Postgres) *string { return &p.DataDirectory },
		"The cluster's data directory on this machine. Left out, the cluster is read over the connection (BASE_BACKUP)."),
	key("bin-directory", absolutePath, func(p *Postgres) *string { return &p.BinDirectory },
		"Directory of PostgreSQL's programs, for restore --start."),
	key("slot", slotName, func(p *Postgres) *string { return &p.Slot },
		"Physical replication slot of the log stream. Left out, it is holdfast_ and the system's name, with _ for -."),
	key("checkpoint", oneOf("checkpoint", CheckpointFast, CheckpointSpread), func(p *Postgres) *Checkpoint { return &p.Checkpoint },
		"fast begins a snapshot at once; spread waits for a checkpoint that spares the disks.").or("fast"),
}

var policy = object[Policy]{
	key("schedule", schedule, func(p *Policy) *dr.Schedule { return &p.Schedule },
		"When snapshots are due: hourly, daily, weekly, every 15m, five cron fields in local time, or continuous: after every checkpoint of the server, at most one a minute.").or("hourly"),
	key("jitter", duration(0, 24*time.Hour), func(p *Policy) *time.Duration { return &p.Jitter },
		"Each system begins up to this much later, always the same, so that not all begin at once.").or("2m"),
	key("windows", list[dr.Window]{windowOfDay}, func(p *Policy) *[]dr.Window { return (*[]dr.Window)(&p.Windows) },
		"Times of day, by the local clock, at which a snapshot may begin. Without any, at any time."),
	key("log", log, func(p *Policy) *Log { return &p.Log },
		"How the change log is protected.").or("{}"),
	key("copies", copies, func(p *Policy) *Copies { return &p.Copies },
		"At which sites the data is, and how many of them suffice.").or("{}"),
	key("retention", retention, func(p *Policy) *dr.Retention { return &p.Retention },
		"Which snapshots are kept: the newest of each of the last N hours, days, … in UTC that have one. All zero keeps everything. The log is kept as far as the kept snapshots need it.").or("{}"),
	key("check", check, func(p *Policy) *Check { return &p.Check },
		"How often stored bytes are read back and checked.").or("{}"),
	key("verify", verify, func(p *Policy) *Verify { return &p.Verify },
		"How often and how deep it is tested that systems can be recovered.").or("{}"),
	key("optimize", optimize, func(p *Policy) *Optimize { return &p.Optimize },
		"How the agent bounds the fragmentation that many small changes leave.").or("{}"),
	key("objectives", objectives, func(p *Policy) *dr.Objective { return &p.Objectives },
		"What is promised, and measured. Left out, nothing is promised.").or("{}"),
}

var log = object[Log]{
	key("stream", boolean, func(l *Log) *bool { return &l.Stream },
		"Receive the log over the replication protocol. false for archive_command alone.").or("true"),
	key("interval", duration(100*time.Millisecond, time.Hour), func(l *Log) *time.Duration { return &l.Interval },
		"The longest that the log's unfinished tail waits before it is put into the repository.").or("1s"),
	key("acknowledge", oneOf("place to acknowledge from", AcknowledgeRepository, AcknowledgeSpool), func(l *Log) *Acknowledge { return &l.Acknowledge },
		"Where the log must be durable before the primary is told so: in the repository, or in the spool on this machine.").or("repository"),
	key("spool-limit", bytesOf(64<<20, 1<<50), func(l *Log) *dr.Bytes { return &l.SpoolLimit },
		"The largest that the spool may grow while the repository cannot be reached.").or("16GiB"),
}

var copies = object[Copies]{
	key("sites", list[string]{name}, func(c *Copies) *[]string { return &c.Sites },
		"Sites of the repository's replicas that get copies. Left out, all at which the data may be."),
	key("min", wholeNumber(1, 100), func(c *Copies) *int { return &c.Min },
		"From how many sites, the first included, the system can be recovered: fewer are an alarm.").or("1"),
	key("sync", wholeNumber(1, 100), func(c *Copies) *int { return &c.Sync },
		"How many sites hold a part of the log before the primary is told that it is durable. With a synchronous standby (synchronous_standby_names) nothing that was committed is lost with fewer sites than that.").or("1"),
	key("patience", duration(0, 24*time.Hour), func(c *Copies) *time.Duration { return &c.Patience },
		"How long so many sites are waited for. Then fewer suffice, which is an alarm, until there are enough again. 0s waits for ever, and commits with it.").or("30s"),
}

// many is more snapshots than anybody keeps of one period.
const many = 100_000

var retention = object[dr.Retention]{
	key("keep-last", wholeNumber(0, many), func(r *dr.Retention) *int { return &r.KeepLast }, "The newest N.").or("3"),
	key("keep-hourly", wholeNumber(0, many), func(r *dr.Retention) *int { return &r.Hourly }, "The newest of each of the last N hours.").or("24"),
	key("keep-daily", wholeNumber(0, many), func(r *dr.Retention) *int { return &r.Daily }, "The newest of each of the last N days.").or("7"),
	key("keep-weekly", wholeNumber(0, many), func(r *dr.Retention) *int { return &r.Weekly }, "The newest of each of the last N weeks.").or("5"),
	key("keep-monthly", wholeNumber(0, many), func(r *dr.Retention) *int { return &r.Monthly }, "The newest of each of the last N months.").or("12"),
	key("keep-yearly", wholeNumber(0, many), func(r *dr.Retention) *int { return &r.Yearly }, "The newest of each of the last N years.").or("0"),
}

var check = object[Check]{
	key("schedule", schedule, func(c *Check) *dr.Schedule { return &c.Schedule },
		"When a sample is due.").or("daily"),
	key("sample", fraction, func(c *Check) *Fraction { return &c.Sample },
		"How much of the repository is read each time.").or(`"1%"`),
}

var optimize = object[Optimize]{
	key("budget", share, func(o *Optimize) *Share { return &o.Budget },
		"How much may be stored again so that restores stay quick, as a part of what snapshots have stored. 0% for nothing; holdfast repo optimize does it by hand.").or(`"125%"`),
}

var objectives = object[dr.Objective]{
	key("rpo", objective(), func(o *dr.Objective) *time.Duration { return &o.RPO },
		"Recovery point objective: the longest span of changes that may be lost."),
	key("rto", objective(), func(o *dr.Objective) *time.Duration { return &o.RTO },
		"Recovery time objective: the longest time until the system answers again."),
	key("mtd", objective(), func(o *dr.Objective) *time.Duration { return &o.MTD },
		"Maximum tolerable downtime."),
}

var agent = object[Agent]{
	key("listen", address, func(a *Agent) *string { return &a.Listen },
		"host:port of /metrics and /healthz.").or("127.0.0.1:9847"),
	key("state", absolutePath, func(a *Agent) *string { return &a.State },
		"Directory of what must survive a restart: the spool and the times of the last runs.").or("/var/lib/holdfast"),
	key("memory", bytesOf(64<<20, 1<<50), func(a *Agent) *dr.Bytes { return &a.Memory },
		"Budget for buffers; the whole process takes a little more.").or("384MiB"),
	key("prune", boolean, func(a *Agent) *bool { return &a.Prune },
		"Apply retention, give space back, and optimize. false where another host does, by holdfast repo prune, with credentials that this one lacks (docs/credentials.md).").or("true"),
}
