package repo

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Records are created once, by their signer alone, are found again by a check, and come back from another replica. A collection leaves
// them where they are.
func TestEvidenceIsKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	l := EvidenceLog{r.EvidenceScope("orders-db"), r.opts.Signer.Public().ID()}
	all := EvidenceLog{RepositoryScope, l.Signer}
	for n := range uint64(3) {
		if err := errors.Join(r.CreateEvidence(ctx, l, n, []byte("record")), r.CreateEvidence(ctx, all, n, []byte("record"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.CreateEvidence(ctx, l, 2, []byte("another")); !errors.Is(err, store.ErrExists) {
		t.Errorf("a number was given twice: %v", err)
	}
	if err := r.CreateEvidence(ctx, EvidenceLog{l.Scope, strings.Repeat("0", 32)}, 0, nil); err == nil {
		t.Error("somebody records for another signer")
	}
	if logs, err := r.EvidenceLogs(ctx, ""); err != nil || len(logs) != 2 || !slices.Contains(logs, l) || !slices.Contains(logs, all) {
		t.Errorf("logs: %v, %v", logs, err)
	}
	if numbers, err := r.EvidenceNumbers(ctx, l, 1); err != nil || !slices.Equal(numbers, []uint64{1, 2}) {
		t.Errorf("numbers: %v, %v", numbers, err)
	}
	there := storetest.NewMemory()
	if err := r.CopyKeys(ctx, there); err != nil {
		t.Fatal(err)
	}
	other, err := r.Beside(ctx, there, r.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close() //nolint:errcheck // a test
	if n, err := other.CopyEvidence(ctx, r, "orders-db"); n != 6 || err != nil {
		t.Fatalf("copied %d, %v", n, err)
	}
	if _, err := r.Collect(ctx, CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	names := spoilt(t, st, prefixEvidence)
	if len(names) != 6 {
		t.Fatalf("a collection has removed evidence: %v", names)
	}
	report, err := r.Check(ctx, CheckOptions{ReadData: true})
	if err != nil || len(report.Problems) != 3 { // those that are removed shows who verifies the log
		t.Errorf("%+v, %v", report.Problems, err)
	}
	healed, err := r.Heal(ctx, []*Repository{other}, names)
	if err != nil || len(healed.Healed) != 6 {
		t.Errorf("%+v, %v", healed, err)
	}
	if report, err := r.Check(ctx, CheckOptions{ReadData: true}); err != nil || len(report.Problems)+len(report.Notes) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if b, err := r.Evidence(ctx, l, 1); err != nil || string(b) != "record" {
		t.Errorf("%q, %v", b, err)
	}
}
