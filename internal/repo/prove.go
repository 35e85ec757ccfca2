package repo

import (
	"context"
	"errors"
	"path"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Proof says whether an object is what was stored under its name.
type Proof struct {
	Read int64  // bytes that came from the store
	Bad  string // why it is not; empty: it is
}

// Provable tells whether Prove can say anything about an object of that name.
func Provable(name string) bool {
	_, sealed := sealedAs(name)
	return sealed || name == markerName || isPlain(name)
}

// Prover proves objects, one after the other, for one goroutine.
type Prover struct {
	r    *Repository
	bare *Repository // without earlier versions: what is there now is what is looked at
	rd   *Reader
}

// Prover returns a new prover.
func (r *Repository) Prover() *Prover {
	bare := &Repository{store: r.bare, bare: r.bare, keys: r.keys, id: r.id, opts: r.opts, codecs: r.codecs}
	return &Prover{r, bare, bare.Reader()}
}

// Prove reads every byte of an object as it is in the store now, and proves it: it is opened, decoded, and chunks have their IDs. What
// seems damaged is read once more, since the way here may have damaged it. look, which may be nil, is lent the bytes, of the last reading
// at the end. An error says that it could not be looked at: the store did not answer, or did not allow it; the keys were rotated
// (ErrKeysRotated); or the object is not there (store.ErrNotExist).
func (p *Prover) Prove(ctx context.Context, name string, look func(body []byte)) (proof Proof, err error) {
	for range 2 {
		var body []byte
		body, err = p.bare.store.Get(ctx, name, maxPack)
		proof.Read += int64(len(body))
		if err == nil {
			if look != nil {
				look(body)
			}
			err = p.judge(ctx, name, body)
		}
		switch {
		case err == nil:
			proof.Bad = ""
			return proof, nil
		case errors.Is(err, store.ErrNotExist) || ctx.Err() != nil || !lost(err):
			return proof, err
		}
		if errors.Is(err, seal.ErrUnknownEpoch) {
			if err := p.r.Refresh(ctx); errors.Is(err, ErrKeysRotated) || err != nil && store.KindOf(err) != store.Other {
				return proof, err
			}
		}
		proof.Bad = reasonOf(err)
	}
	return proof, nil
}

// judge returns an error for which lost is true where a body, which may be changed, is not what was stored under its name.
func (p *Prover) judge(ctx context.Context, name string, body []byte) error {
	damaged := func(reason string) error { return &seal.DamagedError{Name: name, Reason: reason} }
	kind, sealed := sealedAs(name)
	switch {
	case name == markerName || isPlain(name):
		if ok, err := p.plain(ctx, name, body); err != nil || ok {
			return err
		}
		return damaged("nobody who holds the keys has made it")
	case !sealed:
		return nil
	case kind == seal.KindPack:
		return p.pack(name, body)
	case kind == seal.KindSnapshot:
		_, err := p.bare.openManifest(ctx, name, body)
		var d *seal.DamagedError
		if err != nil && !errors.As(err, &d) && store.KindOf(err) == store.Other && !errors.Is(err, seal.ErrUnknownEpoch) {
			err = nil // of a newer version, and authentic
		}
		return err
	}
	plain, err := p.bare.keys.OpenWhole(kind, name, body)
	if err != nil {
		return err
	}
	switch kind {
	case seal.KindLogExtent:
		s, start, end, ok := parseExtentName(name)
		if !ok {
			return damaged("its name is not that of a part of a log")
		}
		lr := &LogReader{coder: p.rd.coder}
		_, err = lr.parse(plain, Extent{s, start, end, 0}, start, end, func([]byte) error { return nil })
	case seal.KindIndex:
		_, err = parseIndex(name, plain)
	case seal.KindRoll:
		_, err = parseRoll(plain, path.Base(name))
	case seal.KindMark:
		var m Mark
		err = p.signed(ctx, name, purposeMark, plain, &m, &m.Signer)
	case seal.KindPlace:
		var x Place
		err = p.signed(ctx, name, purposePlace, plain, &x, &x.Signer)
	}
	if err != nil && !lost(err) && store.KindOf(err) == store.Other {
		err = damaged(err.Error())
	}
	return err
}

func (p *Prover) signed(ctx context.Context, name, purpose string, plain []byte, v any, signer *string) error {
	return p.bare.readSigned(ctx, purpose, name, plain, v, signer)
}

// plain judges what opens the repository, which has no seal.
func (p *Prover) plain(ctx context.Context, name string, body []byte) (bool, error) {
	if !strings.HasPrefix(name, prefixKeys) {
		return p.r.authentic(name, body), nil
	}
	if _, err := seal.ParseSlot(body); err != nil {
		return false, nil //nolint:nilerr // that is what was asked
	}
	e, err := p.bare.currentEpoch(ctx)
	if err != nil {
		return false, err
	}
	// Of slots from before a rotation nobody can tell more.
	return path.Dir(name)+"/" != slotName(p.r.id, e.Generation, "") || p.r.authentic(name, body), nil
}

// pack opens, decodes and hashes every chunk of a pack.
func (p *Prover) pack(name string, body []byte) error {
	g, id, ok := parsePackName(name)
	if !ok {
		return &seal.DamagedError{Name: name, Reason: "its name is not that of a pack"}
	}
	return p.bare.eachFrame(packKey{g, id}, body, func(object *seal.Object, l location) error {
		_, err := p.rd.one(object, l, body[l.offset:][:l.stored], everyGroup)
		return err
	})
}
