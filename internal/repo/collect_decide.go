package repo

import (
	"cmp"
	"slices"
)

// The decisions of a collection: functions of what was read, without I/O.

// packUse is what marking found out of one listed pack.
type packUse struct {
	packKey
	indexed    bool
	size       int64 // without what an empty pack has
	live       int64 // bytes of the chunks that a snapshot needs from this pack, and of their directory entries
	liveChunks int64
}

// policy is how much is rewritten to win space and to keep the number of packs low.
type policy struct {
	minLive    float64 // packs with a smaller share of live bytes are rewritten
	small      int64   // packs below this size are gathered, where there are several
	maxBytes   int64   // bound on what is copied
	maxChunks  int64   // bound on the memory for it
	gatherFrom int     // how many small packs of a group are several
}

// verdict is what becomes of the listed packs. What is in neither list is kept.
type verdict struct {
	condemned []packKey // no snapshot needs them, as far as anybody knows now
	rewritten []packKey // condemned too, once their live chunks are copied
}

// judge decides what becomes of the packs. Packs that no index names are of writers that died or have not finished:
// condemned like the others, and rescued where their writer turns out to have finished.
func judge(packs []packUse, p policy) verdict {
	packs = slices.Clone(packs)
	// The emptiest first: they win most for what they cost. The name makes the order the same for everybody.
	slices.SortFunc(packs, func(a, b packUse) int {
		return cmp.Or(cmp.Compare(a.live*max(b.size, 1), b.live*max(a.size, 1)), cmp.Compare(a.String(), b.String()))
	})
	smalls := map[ResidencyGroup]int{}
	for _, u := range packs {
		if u.live > 0 && u.size < p.small {
			smalls[u.group]++
		}
	}
	var v verdict
	var bytes, chunks int64
	for _, u := range packs {
		switch sparse := float64(u.live) < p.minLive*float64(u.size); {
		case !u.indexed || u.liveChunks == 0:
			v.condemned = append(v.condemned, u.packKey)
		case !sparse && (u.size >= p.small || smalls[u.group] < p.gatherFrom):
		case bytes+u.live > p.maxBytes || chunks+u.liveChunks > p.maxChunks:
		default:
			bytes, chunks = bytes+u.live, chunks+u.liveChunks
			v.rewritten = append(v.rewritten, u.packKey)
		}
	}
	return v
}

// doomed returns the condemned packs that are not rescued.
func doomed(condemned, rescued []string) map[PackID]packKey {
	out := map[PackID]packKey{}
	for _, s := range condemned {
		if k, ok := parsePackKey(s); ok {
			out[k.id] = k
		}
	}
	for _, s := range rescued {
		if k, ok := parsePackKey(s); ok {
			delete(out, k.id)
		}
	}
	return out
}

// settle says what a collection does about a writer that it waits for.
func settle(outcome, intent, impatient bool) settlement {
	switch {
	case outcome:
		return settled // committed, or aborted: the snapshot's name is taken
	case !intent:
		return settled // it gave up, and removed its intent when nothing of it was under way any more
	case impatient:
		return abort
	}
	return wait
}

type settlement int

const (
	settled settlement = iota
	abort
	wait
)
