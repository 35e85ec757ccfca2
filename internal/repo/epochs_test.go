package repo

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
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
	if err := r.AddRecipient(t.Context(), must(seal.PassphraseRecipient("other", "another passphrase", 1))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rotate(t.Context(), func(s *seal.Slot) bool { return s.Name != "other" }); err != nil {
		t.Fatal(err)
	}
	if r, err := Open(t.Context(), v.st, seal.Credentials{Passphrase: passphrase}, testOptions(t)); err == nil {
		t.Errorf("it opens, with epoch %d", r.keys.Epoch())
	}
}

// A thief changes what of an epoch and of a slot nothing proves. It is found and put right, and what is renewed is not his.
func TestForgedOverKeys(t *testing.T) {
	t.Parallel()
	for _, old := range []bool{false, true} { // objects from before there were proofs
		v := newVaulted(t)
		r := v.open(t, v.st)
		name := epochName(r.id, 1)
		var e epochObject
		if err := json.Unmarshal(must(v.st.Get(t.Context(), name, maxSmall)), &e); err != nil {
			t.Fatal(err)
		}
		slot := ""
		for _, name := range v.st.Names() {
			if strings.HasPrefix(name, prefixKeys) {
				slot = name
			}
		}
		if old {
			e.Proof = ""
			v.st.Replace(name, must(json.Marshal(e)))
		}
		e.Generation, e.Proof = "0123456789abcdef", ""
		if err := v.st.Put(t.Context(), name, must(json.Marshal(e))); err != nil {
			t.Fatal(err)
		}
		var s seal.Slot
		if err := json.Unmarshal(must(v.st.Get(t.Context(), slot, maxSmall)), &s); err != nil {
			t.Fatal(err)
		}
		s.Keyring = []byte("nothing")
		if err := v.st.Put(t.Context(), slot, must(json.Marshal(s))); err != nil {
			t.Fatal(err)
		}
		v.st.Pass(20 * 24 * time.Hour)
		r = v.open(t, v.st)
		if err := r.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		must(r.RenewLock(t.Context(), LockOptions{}))
		for _, name := range []string{name, slot} {
			all := must(store.VersionsOf(t.Context(), v.st.Vault(), name))
			for i, x := range all {
				left := must(v.st.Vault().Retained(t.Context(), x)).Sub(v.st.Now())
				if mine := i == len(all)-1; mine != (left >= month) {
					t.Errorf("version %s of %s is retained for %s", x.ID, name, left)
				}
			}
		}
		v.healed(t, []string{name, slot})
		if slots := must(v.open(t, v.st).Slots(t.Context())); len(slots) != 1 {
			t.Errorf("%d slots", len(slots))
		}
	}
}

// Who is let in again has a new slot, which is no thief's.
func TestSlotThatIsReplaced(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	r := v.open(t, v.st)
	to := must(seal.PassphraseRecipient("other", "another passphrase", 1))
	for range 3 {
		if err := r.AddRecipient(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		v.st.Pass(time.Hour)
	}
	v.wantNoProblems(t)
}

// A thief puts a repository of his own in the place of ours, which our keys open. It is not opened, and no log is acknowledged until
// somebody has looked.
func TestThiefsRepository(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	open := v.open(t, v.st)
	thiefs := storetest.NewMemory()
	his, err := Init(t.Context(), thiefs, []seal.Recipient{testRecipient(t)}, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer his.Close()
	for _, name := range thiefs.Names() {
		if err := v.st.Put(t.Context(), name, must(thiefs.Get(t.Context(), name, maxSmall))); err != nil {
			t.Fatal(err)
		}
	}
	r := v.open(t, v.st)
	if r.ID() != open.ID() {
		t.Fatal("the thief's repository is opened")
	}
	v.wantAll(t, r)
	v.st.Pass(time.Hour)
	for _, r := range []*Repository{open, r} {
		if err := r.Log("orders-db").PutMark(t.Context(), Mark{Stream: 1, LSN: 0x5000, Writer: v.st.Now()}); !errors.Is(err, ErrReplaced) {
			t.Errorf("log is acknowledged: %v", err)
		}
	}
	v.healed(t, []string{markerName})
	r = v.open(t, v.st)
	fs := randomFiles(2, 1)
	v.want[mustSave(t, r, fs).ID] = fs
	v.wantAll(t, v.open(t, v.st))

	// Where ours does not open, his does neither.
	his2, err := Init(t.Context(), storetest.NewMemory(), []seal.Recipient{must(seal.PassphraseRecipient("x", "another passphrase", 1))}, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer his2.Close()
	for _, name := range his2.bare.(*storetest.Memory).Names() {
		if err := v.st.Put(t.Context(), name, must(his2.bare.Get(t.Context(), name, maxSmall))); err != nil {
			t.Fatal(err)
		}
	}
	o := testOptions(t)
	o.Lock, o.Now = month, v.st.Now
	if _, err := Open(t.Context(), v.st, seal.Credentials{Passphrase: "another passphrase"}, o); !errors.Is(err, ErrReplaced) {
		t.Errorf("a repository opens that was not there first: %v", err)
	}
}

// Where a repository was deleted whose versions are kept, no other is made that nobody would open.
func TestInitWhereOneWas(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	if err := v.st.Delete(t.Context(), markerName); err != nil {
		t.Fatal(err)
	}
	o := testOptions(t)
	o.Lock, o.Now = month, v.st.Now
	if _, err := Init(t.Context(), v.st, []seal.Recipient{testRecipient(t)}, o); !errors.Is(err, ErrExists) {
		t.Errorf("another one is made: %v", err)
	}
}
