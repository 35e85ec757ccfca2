package incremental

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A chain over DDL, truncation, vacuum and drop, whose visibility maps were all logged, is sound: no alarm, with and
// without the log, and nothing is left out with it.
func TestSoundChain(t *testing.T) {
	for _, v := range versions(t) {
		for _, checksums := range []bool{true, false} {
			t.Run(v, func(t *testing.T) {
				s := startServer(t, v, checksums)
				c := makeChain(t, s)
				for _, withLog := range []bool{true, false} {
					r := c.audit(t, withLog)
					if len(r.Findings) > 0 {
						t.Errorf("checksums %v, log %v:\n%s", checksums, withLog, text(r.Findings))
					}
					t.Logf("%d pages, %d restored, %d filled, gaps %q", r.Pages, r.Restored, r.Filled, r.Gaps)
					if r.Pages < 3000 || r.Backups[1].Increments < 50 || r.Backups[1].Carried < 50 || r.Backups[0].Checksummed < 500 {
						t.Errorf("too little was checked: %+v", r.Backups)
					}
					for _, l := range r.Ranges {
						if !l.Read && (withLog || l.Purpose == "replay") {
							t.Errorf("the log of %+v was not read", l)
						}
					}
					c.truth(t, s, r)
					if withLog && checksums && len(r.Gaps) > 0 {
						t.Errorf("not covered: %q", r.Gaps)
					}
					if !withLog && !strings.Contains(strings.Join(r.Gaps, "\n"), "whether every block that changed before the start of "+c.dirs[2]) {
						t.Errorf("nothing tells that the log was missing: %q", r.Gaps)
					}
				}
				if r := run(t, Options{Backups: c.dirs[:1]}); len(r.Findings) > 0 {
					t.Errorf("the full backup alone:\n%s", text(r.Findings))
				}
			})
		}
	}
}

func TestWhatIsNoBackupIsRefused(t *testing.T) {
	empty, tarred := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(tarred, "base.tar.gz"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		empty:                                 "no backup_label",
		tarred:                                "base.tar.gz",
		filepath.Join(tarred, "base.tar.gz"):  "it is a file",
		filepath.Join(tarred, "not", "there"): "no such file",
	} {
		if _, err := Run(t.Context(), Options{Backups: []string{dir}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}
