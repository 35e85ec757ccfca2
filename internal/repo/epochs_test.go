package repo

import (
	"encoding/json"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// A thief puts an epoch of his own behind ours: the repository opens, is written to, and is put right; whether the epoch is the next one
// or far away.
func TestForeignEpoch(t *testing.T) {
	t.Parallel()
	for _, number := range []uint32{2, 0xffffffff} {
		v := newVaulted(t)
		before := v.open(t, v.st)
		var e epochObject
		if err := json.Unmarshal(must(v.st.Get(t.Context(), epochName(before.id, 1), maxSmall)), &e); err != nil {
			t.Fatal(err)
		}
		e.Epoch = number // all else is copied, the slots too
		name := epochName(before.id, number)
		if err := v.st.Put(t.Context(), name, must(json.Marshal(e))); err != nil {
			t.Fatal(err)
		}
		if err := before.Refresh(t.Context()); err != nil {
			t.Errorf("epoch %x: whoever has it open: %v", number, err)
		}
		r := v.open(t, v.st)
		v.wantAll(t, r)
		fs := randomFiles(99, 3)
		v.want[mustSave(t, r, fs).ID] = fs
		v.healed(t, []string{name})
		if _, err := v.open(t, v.st).Rotate(t.Context(), nil); err != nil {
			t.Errorf("epoch %x: %v", number, err)
		}
		v.wantAll(t, v.open(t, v.st))
	}
}

// Who was not to have the keys of a rotation does not get in with older ones.
func TestRotatedAwayIsNoTheft(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	r := v.open(t, v.st)
	if err := r.AddRecipient(t.Context(), must(seal.PassphraseRecipient("other", "another passphrase", 10))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rotate(t.Context(), func(s *seal.Slot) bool { return s.Name != "other" }); err != nil {
		t.Fatal(err)
	}
	if r, err := Open(t.Context(), v.st, seal.Credentials{Passphrase: passphrase}, testOptions(t)); err == nil {
		t.Errorf("it opens, with epoch %d", r.keys.Epoch())
	}
}
