package evidence

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// packed makes a pack of the records from the third on, of a log with seven, and of another.
func packed(t *testing.T) (*Pack, Sighting, string) {
	t.Helper()
	h := newHost(t, storetest.NewMemory(), nil)
	h.record(t, testSystem, 0, 1, 2, 3)
	b, err := Read(t.Context(), []Source{{"here", h.repo}}, nil, Everywhere)
	if err != nil {
		t.Fatal(err)
	}
	early := b.Verify(nil).Logs[0]
	h.record(t, testSystem, 4, 5, 6)
	h.record(t, "", 4)
	if b, err = Read(t.Context(), []Source{{"here", h.repo}}, nil, Everywhere); err != nil {
		t.Fatal(err)
	}
	from := statement(testSystem, 2).Finished
	p, err := b.Pack(b.Verify(nil), from, from.Add(4*time.Second), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p, Sighting{Seen{early.Log, early.Size, early.Root}, "the auditor", nil}, early.Checkpoint
}

func (p *Pack) unpacked(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "pack.zip")
	var b bytes.Buffer
	if err := p.WriteZip(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	back, err := ReadZip(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	*p = *back
	unzip := exec.Command("python3", "-m", "zipfile", "-e", file, dir)
	if out, err := unzip.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// Who has neither the repository nor our program finds what is right to be right, and what was changed in any file.
func TestPackIsVerifiedByOthers(t *testing.T) {
	t.Parallel()
	p, seen, checkpoint := packed(t)
	if len(p.Logs) != 2 || len(p.Logs[1].Records) != 4 || p.Logs[1].Records[0].Index != 2 || len(p.Logs[1].Consistency) != 2 {
		t.Fatalf("%+v", p)
	}
	dir := p.unpacked(t)
	if v := p.Verify([]Sighting{seen}); len(v.Findings) > 0 || v.Logs[1].Sightings != 1 {
		t.Errorf("by us: %+v", v)
	}
	kept := filepath.Join(dir, "kept")
	if err := os.WriteFile(kept, []byte(checkpoint), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		out, err := exec.Command("python3", append([]string{filepath.Join(dir, "verify.py")}, args...)...).CombinedOutput()
		return string(out), err
	}
	out, err := run("--checkpoint", kept, "--signer", p.Logs[0].Signer)
	if err != nil || !strings.Contains(out, "everything is proven") || !strings.Contains(out, "begins with the 4 records") || strings.Count(out, "succeeded") != 5 {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := run("--signer", strings.Repeat("0", 32)); err == nil {
		t.Errorf("an unknown signer is accepted: %s", out)
	}
	log := filepath.Join(dir, "logs", fmt.Sprintf("002-%.8s", p.Logs[1].Signer))
	for name, file := range map[string]string{
		"a record": "records/00000003.json", "a proof": "proofs/00000003.json", "a hash": "leaves", "the checkpoint": "checkpoint",
		"the proof of consistency": "consistency.json", "what was kept": "../../kept", "the key": "key.pem",
	} {
		path := filepath.Join(log, file)
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		spoilt := bytes.Clone(was)
		spoil(spoilt)
		write := func(b []byte) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(spoilt)
		if out, err := run("--checkpoint", kept); err == nil {
			t.Errorf("%s was changed: %s", name, out)
		}
		write(was)
	}
	if err := os.Remove(filepath.Join(log, "records/00000003.json")); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err == nil || !strings.Contains(out, "record 3 is not in the pack") {
		t.Errorf("a record was removed: %s", out)
	}
}

// spoil changes a letter in the middle of a text.
func spoil(b []byte) {
	for i := len(b) / 2; i < len(b); i++ {
		if c := b[i]; c >= 'a' && c < 'f' || c >= 'A' && c < 'Z' || c >= '0' && c < '9' {
			b[i]++
			return
		}
	}
}

func TestSpoiltPacksAreFoundByUs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(p *Pack, l *PackLog)
		want  FindingKind
	}{
		"a record":         {func(_ *Pack, l *PackLog) { l.Records[1].Envelope += " " }, Damaged},
		"a record removed": {func(_ *Pack, l *PackLog) { l.Records = append(l.Records[:1], l.Records[2:]...) }, Missing},
		"records changed":  {func(_ *Pack, l *PackLog) { l.Records[0].Envelope = l.Records[1].Envelope }, Damaged},
		"a proof":          {func(_ *Pack, l *PackLog) { l.Records[0].Proof = l.Records[1].Proof }, Damaged},
		"a hash":           {func(_ *Pack, l *PackLog) { l.Leaves[0] = l.Leaves[1] }, Damaged},
		"the end":          {func(_ *Pack, l *PackLog) { l.Leaves, l.Records = l.Leaves[:6], l.Records[:3] }, Damaged},
		"an earlier state": {func(_ *Pack, l *PackLog) {
			l.Checkpoint, l.Leaves, l.Records = l.Records[0].Checkpoint, l.Leaves[:3], nil
			l.Consistency = nil
		}, Truncated},
		"another's key":        {func(p *Pack, l *PackLog) { l.PublicKey = p.Logs[0].PublicKey[:30] }, Damaged},
		"another log's origin": {func(p *Pack, l *PackLog) { l.Origin = p.Logs[0].Origin }, Damaged},
		"the consistency":      {func(_ *Pack, l *PackLog) { l.Consistency[0].Size++ }, Rewritten},
	} {
		p, seen, _ := packed(t)
		c.spoil(p, &p.Logs[1])
		v := p.Verify([]Sighting{seen})
		if len(v.Findings) == 0 || v.Findings[0].Kind != c.want {
			t.Errorf("%s: %v", name, v.Findings)
		}
	}
}

// The page needs nothing else, and what a record says cannot become a part of it.
func TestPage(t *testing.T) {
	t.Parallel()
	h := newHost(t, storetest.NewMemory(), nil)
	s := statement(testSystem, 1)
	s.Outcome, s.Reason = Failed, "<script>alert(1)</script>"
	s.Figures, s.Facts = []Figure{{"rto", 12.3456, "s"}}, []Fact{{"target", "latest"}}
	if err := h.recorder().Record(t.Context(), h.repo, s); err != nil {
		t.Fatal(err)
	}
	b, err := Read(t.Context(), []Source{{"here", h.repo}}, nil, Once)
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Pack(b.Verify(nil), time.Time{}, time.Time{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := p.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"&lt;script&gt;", "12.346s", "db1", "nobody has restored it", "target", "Nov", p.Logs[0].Signer} {
		if want == "Nov" {
			want = "2026-11-26 10:00:01 UTC"
		}
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, never := range []string{"<script", "http://", "https://", "src="} {
		if strings.Contains(page.String(), never) {
			t.Errorf("the page has %q", never)
		}
	}
	whole, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ReadJSON(whole)
	if err != nil || len(back.Verify(nil).Findings) > 0 {
		t.Errorf("%v, %+v", err, back)
	}
}
