package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
)

// Settings say how the restored server recovers.
type Settings struct {
	// RestoreCommand asks walserve for a file of the log: %f is its name, %p where to put it.
	RestoreCommand string
	// Ending is what the server does at the end of its recovery.
	Ending Ending
	// Archiving keeps the source's archive_mode; otherwise it is off, so that a copy never writes into the
	// archive of the original.
	Archiving Archiving
	// Subscriptions lets the cluster's subscriptions run; otherwise they rest, so that a copy never takes the changes
	// that its original waits for: both would use the same slot of the publisher.
	Subscriptions Subscriptions
	// Upstream is the primary_conninfo of a server that Follow follows for good, through all timelines to come; empty: it
	// follows the log that RestoreCommand serves, on the plan's timeline.
	Upstream string
}

// Ending is what a server does when it has recovered.
type Ending string

// The endings.
const (
	Promote  Ending = ""         // accept writes, on a new timeline
	Pause    Ending = "pause"    // answer queries, and wait for pg_wal_replay_resume
	Shutdown Ending = "shutdown" // stop
	// Follow stays in recovery as a standby until somebody promotes it: boot does, once the replay has reached
	// the end of the log. It is for recoveries without a target.
	Follow Ending = "follow"
)

// Archiving says whether the restored server archives.
type Archiving bool

// The two ways.
const (
	NoArchiving   Archiving = false
	KeepArchiving Archiving = true
)

// Subscriptions says whether the restored server receives the changes that it subscribes to.
type Subscriptions bool

// The two ways.
const (
	RestSubscriptions Subscriptions = false
	RunSubscriptions  Subscriptions = true
)

const (
	blockBegin = "# holdfast restore: begin"
	blockEnd   = "# holdfast restore: end"
)

// setting is a line of the configuration.
type setting struct{ name, value string }

// settings returns what the recovered server must have, whatever the source was configured to do.
func (x *run) settings() []setting {
	p, s := x.plan, x.opts.Settings
	out := []setting{
		{"restore_command", s.RestoreCommand},
		{"recovery_target_timeline", fmt.Sprint(p.Way.Timeline)},
		// The source's helpers must not be called, and its servers not be followed or waited for.
		{"archive_cleanup_command", ""},
		{"recovery_end_command", ""},
		{"primary_conninfo", ""},
		{"primary_slot_name", ""},
		{"recovery_min_apply_delay", "0"},
		{"synchronous_standby_names", ""},
		{"hot_standby", "on"},
		// Longer than any restore_command takes: boot knows the end of the log by the wait for it, and a promotion ends
		// that wait at once.
		{"wal_retrieve_retry_interval", "1min"},
	}
	if s.Upstream != "" {
		out = append(out, following(s.Upstream, x.plan.Snapshot.Facts.Major())...)
	}
	if s.Archiving == NoArchiving {
		out = append(out, setting{"archive_mode", "off"})
	}
	if s.Subscriptions == RestSubscriptions {
		out = append(out, setting{"max_logical_replication_workers", "0"}) // not even the launcher
	}
	switch p.Target.Kind {
	case points.AtTime:
		out = append(out, setting{"recovery_target_time", p.Target.Time.UTC().Format("2006-01-02 15:04:05.999999+00")})
	case points.AtLSN:
		target := setting{"recovery_target_lsn", p.Target.LSN.String()}
		if uint64(p.Target.LSN) == uint64(p.Snapshot.Facts.StopLSN) {
			// PostgreSQL knows that it has reached a position by the record that begins at or behind it, and that it is consistent by
			// the next one. It is consistent at that position, and not before. Where the log ends there, boot sees to it.
			target = setting{"recovery_target", "immediate"}
		}
		out = append(out, target)
	case points.AtName:
		out = append(out, setting{"recovery_target_name", p.Target.Name})
	case points.Immediate:
		out = append(out, setting{"recovery_target", "immediate"})
	default:
		return out
	}
	action := string(s.Ending)
	if s.Ending == Promote || s.Ending == Follow {
		action = "promote"
	}
	return append(out, setting{"recovery_target_action", action})
}

// following returns what a standby has instead: of two lines for a setting the later one holds.
func following(upstream string, major int) []setting {
	out := []setting{
		{"primary_conninfo", upstream},
		{"recovery_target_timeline", "latest"},
		{"wal_retrieve_retry_interval", "500ms"}, // nobody is asked but who keeps the log ready
		{"wal_receiver_status_interval", "1s"},
		{"wal_receiver_create_temp_slot", "off"}, // no slot of the source's configuration is there
	}
	if major >= 17 {
		out = append(out, setting{"sync_replication_slots", "off"}) // as above
	}
	return out
}

// LogPolicy says how the log of a plan's recovery is served.
func LogPolicy(p *points.Plan) walserve.Policy {
	policy := walserve.Policy{
		System: p.System, SystemID: p.Snapshot.Facts.SystemID, SegmentSize: p.Snapshot.Facts.SegmentSize,
		Timeline: p.Way.Timeline, Reached: max(p.Range.Mark, p.Range.To), Bounded: !IsLatest(p), AllowLoss: bool(p.Loss),
	}
	if p.Flight() != nil {
		policy.End = p.Range.To
	}
	return policy
}

// writeSettings writes all that the server reads before it recovers.
func (x *run) writeSettings() error {
	p := x.plan
	policy := LogPolicy(p)
	encoded, err := policy.Encode()
	if err != nil {
		return err
	}
	auto, err := x.autoConf()
	if err != nil {
		return err
	}
	signal := "recovery.signal"
	if x.opts.Settings.Ending == Follow && !policy.Bounded {
		signal = "standby.signal"
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{walserve.PolicyName, encoded},
		{"postgresql.auto.conf", auto},
		{signal, nil},
		{"backup_label", []byte(p.Snapshot.Facts.BackupLabel)},
	} {
		if err := x.put(f.name, f.content); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return x.writeMissingConf()
}

// autoConf returns postgresql.auto.conf with our block at its end: there, what comes last wins.
func (x *run) autoConf() ([]byte, error) {
	settings := x.settings()
	old, err := x.readConf("postgresql.auto.conf")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Write(neutralise(old))
	fmt.Fprintf(&b, "%s (snapshot %s of %s); may be removed once the server accepts writes\n", blockBegin, x.result.Snapshot, x.plan.System)
	for _, s := range settings {
		if strings.ContainsAny(s.value, "\n\r\x00") {
			return nil, fmt.Errorf("the setting %s must be one line", s.name)
		}
		fmt.Fprintf(&b, "%s = '%s'\n", s.name, strings.ReplaceAll(strings.ReplaceAll(s.value, `\`, `\\`), "'", "''"))
	}
	fmt.Fprintf(&b, "%s\n", blockEnd)
	// A target that stands in postgresql.conf would be a second one beside ours, which PostgreSQL refuses.
	conf, err := x.readConf("postgresql.conf")
	if err != nil {
		return nil, err
	}
	if calm := neutralise(conf); !bytes.Equal(calm, conf) {
		x.note("recovery settings in postgresql.conf were commented out")
		if err := x.put("postgresql.conf", calm); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

func (x *run) readConf(name string) ([]byte, error) {
	b, err := x.layout.data.root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

var targetLine = regexp.MustCompile(`(?i)^\s*recovery_target(_[a-z]+)?\s*[= ]`)

// neutralise comments out recovery targets and takes out an earlier block of ours, with whatever a block held.
func neutralise(conf []byte) []byte {
	var b bytes.Buffer
	inBlock := false
	for line := range bytes.Lines(conf) {
		switch {
		case bytes.HasPrefix(line, []byte(blockBegin)):
			inBlock = true
		case inBlock:
			inBlock = !bytes.HasPrefix(line, []byte(blockEnd))
		case targetLine.Match(line):
			b.WriteString("# holdfast restore: ")
			b.Write(line)
		default:
			b.Write(line)
		}
		if n := b.Len(); n > 0 && b.Bytes()[n-1] != '\n' {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// onlyBlock returns the last block of ours: an earlier one is the source's, which may have been restored itself.
func onlyBlock(conf []byte) []byte {
	i := bytes.LastIndex(conf, []byte(blockBegin))
	if i < 0 {
		return nil
	}
	return conf[i:]
}

// withoutTargets comments out targets everywhere, our own block included; the target's timeline is kept.
func withoutTargets(conf []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(conf) {
		if targetLine.Match(line) && !bytes.HasPrefix(line, []byte("recovery_target_timeline")) {
			b.WriteString("# holdfast restore: ")
		}
		b.Write(line)
	}
	return b.Bytes()
}

// writeMissingConf gives a cluster whose configuration lies elsewhere at the source (Debian's does, in /etc)
// the least that it can be started with. It answers on a socket only, to the user that runs it.
func (x *run) writeMissingConf() error {
	if !x.conf {
		var b strings.Builder
		b.WriteString("# Written by holdfast restore: the source keeps its configuration outside of the data directory.\n")
		b.WriteString("listen_addresses = ''\n")
		// A standby must not undercut these.
		for _, name := range slices.Sorted(maps.Keys(x.plan.Snapshot.Facts.Settings)) {
			if safeSettings[name] {
				fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(x.plan.Snapshot.Facts.Settings[name], "'", "''"))
			}
		}
		if err := x.put("postgresql.conf", []byte(b.String())); err != nil {
			return err
		}
		why := "the snapshot has no postgresql.conf, because the source keeps it elsewhere"
		if x.isLost("postgresql.conf") {
			why = "the snapshot's postgresql.conf is lost"
		}
		x.note("%s; a minimal one was written, which listens on no network address", why)
	}
	if x.hba {
		return nil
	}
	if err := x.put("pg_hba.conf", []byte("# Written by holdfast restore.\nlocal all all peer\n")); err != nil {
		return err
	}
	if _, err := x.layout.data.root.Lstat("pg_ident.conf"); errors.Is(err, fs.ErrNotExist) {
		if err := x.put("pg_ident.conf", nil); err != nil {
			return err
		}
	}
	x.note("the snapshot has no pg_hba.conf; one was written that lets in local users under their own names only")
	return nil
}

// safeSettings are those of Facts.Settings that are written: names from a snapshot are not believed.
var safeSettings = map[string]bool{
	"max_connections": true, "max_worker_processes": true, "max_wal_senders": true,
	"max_prepared_transactions": true, "max_locks_per_transaction": true, "track_commit_timestamp": true,
	"wal_level": true,
}

// Needed tells whether a setting of a snapshot's facts is one that its server cannot recover without.
func Needed(name string) bool { return safeSettings[name] }

// CheckRestoreCommand refuses a command that cannot serve the log.
func CheckRestoreCommand(command string) error {
	if strings.Contains(command, "%f") && strings.Contains(command, "%p") {
		return nil
	}
	return &dr.Failure{
		What:   fmt.Sprintf("the restore command %q cannot serve the log", command),
		Reason: "it needs %f, the file's name, and %p, where it is to be put",
		Next:   "write it as: holdfast wal fetch %f %p",
	}
}
