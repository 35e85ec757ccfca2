package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func ageRecipient(t testing.TB, name string) (seal.Recipient, seal.Credentials) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.KeyRecipient(name, id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	return r, seal.Credentials{Identities: []age.Identity{id}}
}

func TestWrongKeyNoKeyNewerFormat(t *testing.T) {
	st := storetest.NewMemory()
	newRepository(t, st)
	_, stranger := ageRecipient(t, "stranger")
	for _, c := range []seal.Credentials{stranger, {Passphrase: "wrong horse battery staple"}, {}} {
		_, err := Open(t.Context(), st, c, testOptions(t))
		if !errors.Is(err, seal.ErrNoIdentity) || !strings.Contains(err.Error(), `"test"`) {
			t.Errorf("open with other keys: %v", err)
		}
	}
	newer := change(t, st, markerName, func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":1`), []byte(`"version":2`), 1) })
	if _, err := Open(t.Context(), newer, testCredentials, testOptions(t)); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("open a newer format: %v", err)
	}
	if _, err := Open(t.Context(), storetest.NewMemory(), testCredentials, testOptions(t)); err == nil || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("open an empty store: %v", err)
	}
	if _, err := Init(t.Context(), st, []seal.Recipient{testRecipient(t)}, testOptions(t)); !errors.Is(err, ErrExists) {
		t.Errorf("init twice: %v", err)
	}
}

// TestDamagedKeys flips every byte of every plain object: either it opens with the right keys, or it says no.
func TestDamagedKeys(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	to, c := ageRecipient(t, "ops") // opens faster than a passphrase
	if err := r.AddRecipient(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	for _, name := range st.Names() {
		body, err := st.Get(t.Context(), name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for at := range body {
			bad := change(t, st, name, func(b []byte) []byte { b[at] ^= 1; return b })
			got, err := Open(t.Context(), bad, c, Options{})
			if err != nil {
				continue
			}
			if got.ID() != r.ID() || got.keys.EpochCheck(1) != r.keys.EpochCheck(1) {
				t.Errorf("%s with byte %d changed opens with other keys", name, at)
			}
			got.Close()
		}
	}
}

func TestRotation(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	old := mustSave(t, r, littleFiles(1, nil))
	ops, opsKey := ageRecipient(t, "ops")
	gone, goneKey := ageRecipient(t, "gone")
	for _, to := range []seal.Recipient{ops, gone} {
		if err := r.AddRecipient(t.Context(), to); err != nil {
			t.Fatal(err)
		}
	}
	agent := reopen(t, st) // runs over the rotation
	kept, err := reopen(t, st).Rotate(t.Context(), func(s *seal.Slot) bool { return s.Name == "gone" })
	if err != nil || len(kept) != 2 {
		t.Fatalf("Rotate: %v, %v", kept, err)
	}
	if err := agent.Refresh(t.Context()); !errors.Is(err, ErrKeysRotated) {
		t.Errorf("Refresh: %v, want ErrKeysRotated", err)
	}
	if _, err := agent.Begin(t.Context(), "orders-db", DefaultGroup); !errors.Is(err, ErrKeysRotated) {
		t.Errorf("Begin: %v, want ErrKeysRotated", err)
	}
	if err := agent.AddRecipient(t.Context(), gone); !errors.Is(err, ErrKeysRotated) {
		t.Errorf("AddRecipient: %v, want ErrKeysRotated", err)
	}
	if _, err := Open(t.Context(), st, goneKey, testOptions(t)); !errors.Is(err, seal.ErrNoIdentity) {
		t.Errorf("open with a dropped key: %v", err)
	}
	now, err := Open(t.Context(), st, opsKey, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	m := mustSave(t, now, littleFiles(1, nil))
	if m.Written.NewChunks != 0 {
		t.Errorf("after a rotation %d chunks were stored again", m.Written.NewChunks)
	}
	wantFiles(t, now, old, littleFiles(1, nil))
	if _, err := now.Rotate(t.Context(), func(*seal.Slot) bool { return true }); err == nil {
		t.Error("a rotation that leaves nobody succeeds")
	}
}

// TestRotationsAndAdditions tries every interleaving of two calls at the level of calls to the store: the second
// one runs whole before the nth call of the first. Whoever was added successfully, or was kept, can open.
func TestRotationsAndAdditions(t *testing.T) {
	t.Parallel()
	second := map[string]func(r *Repository, to seal.Recipient) error{
		"rotate": func(r *Repository, _ seal.Recipient) error { _, err := r.Rotate(t.Context(), nil); return err },
		"add":    func(r *Repository, to seal.Recipient) error { return r.AddRecipient(t.Context(), to) },
	}
	for firstName, first := range second {
		for secondName, other := range second {
			for n, hit := 1, true; hit; n++ {
				st := storetest.NewMemory()
				a := newRepository(t, st)
				b := reopen(t, st)
				aTo, aKey := ageRecipient(t, "a")
				bTo, bKey := ageRecipient(t, "b")
				var bErr error
				hook := &hooked{Store: st, n: n, do: func() { bErr = other(b, bTo) }}
				a.store = hook
				aErr := first(a, aTo)
				hit = hook.n <= 0
				where := fmt.Sprintf("%s, with %s before its call %d", firstName, secondName, n)
				if aErr != nil && bErr != nil {
					t.Errorf("%s: both fail: %v; %v", where, aErr, bErr)
				}
				if _, err := Open(t.Context(), st, testCredentials, Options{}); err != nil {
					t.Errorf("%s: the first recipient cannot open: %v", where, err)
				}
				if _, err := Open(t.Context(), st, aKey, Options{}); firstName == "add" && aErr == nil && err != nil {
					t.Errorf("%s: recipient a was added, and cannot open", where)
				}
				if _, err := Open(t.Context(), st, bKey, Options{}); hit && secondName == "add" && bErr == nil && err != nil {
					t.Errorf("%s: recipient b was added, and cannot open", where)
				}
			}
		}
	}
}

// hooked calls do before the nth call that lists, reads or writes.
type hooked struct {
	store.Store
	n  int
	do func()
}

func (h *hooked) step() {
	if h.n--; h.n == 0 {
		h.do()
	}
}

func (h *hooked) Put(ctx context.Context, name string, body []byte) error {
	h.step()
	return h.Store.Put(ctx, name, body)
}

func (h *hooked) Create(ctx context.Context, name string, body []byte) error {
	h.step()
	return h.Store.Create(ctx, name, body)
}

func (h *hooked) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	h.step()
	return h.Store.Get(ctx, name, max)
}

func (h *hooked) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	h.step()
	return h.Store.List(ctx, prefix, after, fn)
}
