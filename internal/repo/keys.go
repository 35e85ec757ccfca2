package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A generation is the set of slots that one rotation wrote, in keys/<repository>/<generation>/. It counts from
// the moment at which the epoch's object, created exclusively, names it: a rotation that dies before, or loses
// against another, leaves slots behind that nobody looks at.
type epochObject struct {
	Epoch      uint32 `json:"epoch"`
	Generation string `json:"generation"`
	Check      string `json:"check"`           // Keyring.EpochCheck: an orphaned slot is told from a good one
	Proof      string `json:"proof,omitempty"` // Keyring.EpochProof; objects that were made before there was one have none
}

func epochName(repository string, n uint32) string {
	return fmt.Sprintf("%s%s/%08x", prefixEpochs, repository, n)
}

func slotName(repository, generation, id string) string {
	return prefixKeys + repository + "/" + generation + "/" + id
}

// writeGeneration wraps keys for every recipient, then makes them count.
func writeGeneration(ctx context.Context, st store.Store, keys *seal.Keyring, to []seal.Recipient, now time.Time) error {
	e := epochObject{Epoch: keys.Epoch(), Generation: randomHex(8), Check: keys.EpochCheck(keys.Epoch())}
	e.Proof = keys.EpochProof(e.Epoch, e.Generation, e.Check)
	for _, r := range to {
		if err := putSlot(ctx, st, keys, e.Generation, r, now); err != nil {
			return err
		}
	}
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return st.Create(ctx, epochName(keys.Repository(), e.Epoch), body)
}

func putSlot(ctx context.Context, st store.Store, keys *seal.Keyring, generation string, r seal.Recipient, now time.Time) error {
	slot, err := keys.Wrap(r, now)
	if err != nil {
		return err
	}
	body, err := json.Marshal(slot)
	if err != nil {
		return err
	}
	return st.Put(ctx, slotName(keys.Repository(), generation, r.ID()), body)
}

// currentEpoch returns the newest epoch's object.
func currentEpoch(ctx context.Context, st store.Store, repository string) (epochObject, error) {
	var newest string
	prefix := prefixEpochs + repository + "/"
	if err := st.List(ctx, prefix, "", func(i store.Info) error { newest = i.Name; return nil }); err != nil {
		return epochObject{}, err
	}
	var e epochObject
	if newest == "" {
		return e, dr.Fail(fmt.Sprintf("open repository in %s", st), errors.New("its key epochs are missing"), "restore epochs/ and keys/ from another replica")
	}
	b, err := st.Get(ctx, newest, maxSmall)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(b, &e); err != nil || epochName(repository, e.Epoch) != newest {
		return e, dr.Fail(fmt.Sprintf("open repository in %s", st), fmt.Errorf("object %s is damaged", newest), "restore this one small object from another replica")
	}
	return e, nil
}

// slots returns the slots of a generation, by name. Damaged ones are returned apart: they must not keep the
// others from opening.
func slots(ctx context.Context, st store.Store, repository, generation string) (good []*seal.Slot, damaged []error, err error) {
	prefix := slotName(repository, generation, "")
	var names []string
	if err := st.List(ctx, prefix, "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		b, err := st.Get(ctx, n, maxSmall)
		if errors.Is(err, store.ErrNotExist) {
			continue
		}
		if kind := store.KindOf(err); err != nil && (kind == store.Busy || kind == store.Denied || ctx.Err() != nil) {
			return nil, nil, err
		}
		if err != nil { // its place on the disk cannot be read
			damaged = append(damaged, &slotError{n, err})
			continue
		}
		s, err := seal.ParseSlot(b)
		if err != nil {
			damaged = append(damaged, &slotError{n, err})
			continue
		}
		good = append(good, s)
	}
	sort.Slice(good, func(i, j int) bool { return good[i].Name < good[j].Name })
	return good, damaged, nil
}

// slotError says which slot is damaged.
type slotError struct {
	name string
	err  error
}

func (e *slotError) Error() string { return fmt.Sprintf("object %s: %v", e.name, e.err) }
func (e *slotError) Unwrap() error { return e.err }

func unlock(ctx context.Context, st store.Store, repository string, c seal.Credentials) (*seal.Keyring, error) {
	e, err := currentEpoch(ctx, st, repository)
	if err != nil {
		return nil, err
	}
	return unlockEpoch(ctx, st, repository, e, c)
}

func unlockEpoch(ctx context.Context, st store.Store, repository string, e epochObject, c seal.Credentials) (*seal.Keyring, error) {
	all, damaged, err := slots(ctx, st, repository, e.Generation)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range all {
		k, err := s.Unlock(c)
		switch {
		case err == nil && k.Repository() == repository && k.EpochCheck(e.Epoch) == e.Check:
			return k, nil
		case err == nil:
			damaged = append(damaged, fmt.Errorf("key slot %q belongs to another rotation or repository", s.Name))
		case !errors.Is(err, seal.ErrNoIdentity):
			damaged = append(damaged, fmt.Errorf("key slot %q: %w", s.Name, err))
		}
		names = append(names, fmt.Sprintf("%q", s.Name))
	}
	f := &dr.Failure{
		What:   fmt.Sprintf("open repository in %s: none of your credentials opens key epoch %d", st, e.Epoch),
		Reason: "it is wrapped for the recipients " + strings.Join(names, ", "),
		Next:   "give a key of one of them with --identity or --passphrase-file",
		Err:    seal.ErrNoIdentity,
	}
	if c.Empty() {
		f.What = fmt.Sprintf("open repository in %s: no key was given", st)
	}
	if len(damaged) > 0 {
		f.Reason += "; damaged: " + errors.Join(damaged...).Error()
	}
	return nil, f
}

// Slots returns who can open the repository now, by name.
func (r *Repository) Slots(ctx context.Context) ([]*seal.Slot, error) {
	e, err := r.currentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	good, damaged, err := slots(ctx, r.store, r.id, e.Generation)
	return good, errors.Join(append(damaged, err)...)
}

// AddRecipient lets to open the repository, all epochs of it. Adding one that is there replaces its slot.
func (r *Repository) AddRecipient(ctx context.Context, to seal.Recipient) error {
	for {
		e, err := r.refreshKeys(ctx)
		if err != nil {
			return err
		}
		if err := putSlot(ctx, r.store, r.keys, e.Generation, to, r.opts.Now()); err != nil {
			return err
		}
		// A rotation that listed the slots before ours and committed before we look is seen here; one that
		// commits later looks again after its commit (Rotate). So the slot is in the newest generation.
		if now, err := r.currentEpoch(ctx); err != nil || now == e {
			return err
		}
	}
}

// Rotate starts a new epoch for the recipients of today except those that drop reports, and returns who is
// left. No other call of r may run meanwhile. From then on nothing is sealed with a secret that a dropped recipient has; what was sealed before he
// can still open. Of two concurrent rotations one fails and changes nothing.
func (r *Repository) Rotate(ctx context.Context, drop func(*seal.Slot) bool) ([]*seal.Slot, error) {
	e, err := r.refreshKeys(ctx)
	if err != nil {
		return nil, err
	}
	keep, to, err := r.rotationSlots(ctx, e.Generation, drop)
	if err != nil {
		return nil, err
	}
	if len(to) == 0 {
		return nil, errors.New("rotate the keys: nobody could open the repository afterwards")
	}
	next, err := r.keys.Rotate(r.opts.Now())
	if err != nil {
		return nil, err
	}
	if err := writeGeneration(ctx, r.store, next, to, r.opts.Now()); err != nil {
		if errors.Is(err, store.ErrExists) {
			return nil, dr.Fail("rotate the keys", errors.New("another rotation finished meanwhile, or somebody without the keys has put "+epochName(r.id, next.Epoch())+" there"),
				"look at holdfast key list, and at holdfast repo check, which finds the latter; rotate again if you still need to")
		}
		return nil, err
	}
	return keep, r.copyStragglers(ctx, e.Generation, next, keep, drop)
}

func (r *Repository) rotationSlots(ctx context.Context, generation string, drop func(*seal.Slot) bool) (keep []*seal.Slot, to []seal.Recipient, err error) {
	all, damaged, err := slots(ctx, r.store, r.id, generation)
	if err != nil || len(damaged) > 0 {
		return nil, nil, errors.Join(append(damaged, err)...)
	}
	for _, s := range all {
		if drop != nil && drop(s) {
			continue
		}
		if !r.keys.Authentic(s) {
			return nil, nil, dr.Fail("rotate the keys", fmt.Errorf("key slot %q was not made by a holder of the keys", s.Name),
				"find out who wrote it; key remove drops it")
		}
		keep, to = append(keep, s), append(to, s.Who())
	}
	return keep, to, nil
}

// copyStragglers wraps the new keys for recipients that AddRecipient put into the old generation after Rotate
// had listed it (see AddRecipient), and makes r use the new keys.
func (r *Repository) copyStragglers(ctx context.Context, old string, next *seal.Keyring, keep []*seal.Slot, drop func(*seal.Slot) bool) error {
	before := r.keys
	e, err := r.currentEpoch(ctx)
	if err != nil {
		return err
	}
	r.keys = next
	all, _, err := slots(ctx, r.store, r.id, old)
	if err != nil {
		return err
	}
	had := map[string]bool{}
	for _, s := range keep {
		had[s.Who().ID()] = true
	}
	for _, s := range all {
		if had[s.Who().ID()] || (drop != nil && drop(s)) || !before.Authentic(s) {
			continue
		}
		if err := putSlot(ctx, r.store, next, e.Generation, s.Who(), r.opts.Now()); err != nil {
			return err
		}
	}
	return nil
}

// ErrKeysRotated is in the errors of Begin, Refresh and of changes of the keys where a rotation elsewhere has made
// this process's keyring old: open the repository again.
var ErrKeysRotated = errors.New("the keys were rotated since they were opened")

// Refresh asks, with two small requests, whether the keys are still the current ones. Long-lived writers of the
// log call it now and then; Begin does it for snapshots.
func (r *Repository) Refresh(ctx context.Context) error {
	_, err := r.refreshKeys(ctx)
	return err
}

// refreshKeys refuses to go on with a keyring that a rotation elsewhere has made old.
func (r *Repository) refreshKeys(ctx context.Context) (epochObject, error) {
	e, err := r.currentEpoch(ctx)
	if err != nil {
		return e, err
	}
	switch {
	case e.Epoch < r.keys.Epoch():
		// Writing on would seal data with a secret that nobody who comes after us finds here.
		return e, dr.Fail("use the keys", fmt.Errorf("this replica knows epoch %d only, and ours is %d", e.Epoch, r.keys.Epoch()),
			"copy epochs/ and keys/ from another replica")
	case e.Check != r.keys.EpochCheck(e.Epoch):
		return e, dr.Fail("use the keys", fmt.Errorf("%w (now epoch %d)", ErrKeysRotated, e.Epoch), "run the command again")
	}
	return e, nil
}
