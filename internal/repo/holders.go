package repo

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
)

// Holder is a replica that has everything of a stream before Upto, as the writer of the stream knew at some moment. It had not
// heard then that the replica has everything before any later position.
type Holder struct {
	Site    string `json:"site,omitempty"` // as the writer's configuration names it
	Replica string `json:"replica"`        // see Repository.Replica
	Upto    uint64 `json:"upto"`
}

// Holders is what the writer of a log knows of which replica has it up to where. Each extent says so of the moment at which it is
// made (see Log.Tell): in what a region leaves that is lost, what never was whole is told by that from what is missing.
//
// A position is never behind what was acknowledged, but for what has been on its way: who reads it takes what a replica lacks before
// it for lost. So where it is not known there is none. The methods may be called from several goroutines, and return at once.
type Holders struct {
	mu    sync.Mutex // guards sites
	sites map[string]*holding
}

// holding is what a site has.
type holding struct {
	replica string
	streams map[StreamID]*heldStream
}

// heldStream is what a site has of a stream.
type heldStream struct {
	upto  uint64
	known bool    // upto says something
	ahead []Range // that came before what they follow; they ascend with gaps between them
}

// mostAhead is how far parts may be ahead of what they follow. What is farther is no matter of how it was sent: something was not
// told, or a site is about to be given up, and nothing is known of it until it has what is between.
const mostAhead = 8 * MaxExtent

// says tells whether anything is known.
func (o *heldStream) says() bool {
	n := len(o.ahead)
	return o.known && (n == 0 || o.ahead[n-1].End-o.upto <= mostAhead)
}

// NewHolders returns what somebody knows who knows of no replica.
func NewHolders() *Holders { return &Holders{sites: map[string]*holding{}} }

// Join begins to know of a site whose replica has everything before some positions; have may be nil. From then on Put is called for
// all that it gets.
func (h *Holders) Join(site, replica string, have map[StreamID]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sites[site] = &holding{replica, map[StreamID]*heldStream{}}
	h.raiseLocked(site, have)
}

// Leave ends that: what the site gets from now on is not known.
func (h *Holders) Leave(site string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sites, site)
}

// Raise says that a site has everything before some positions.
func (h *Holders) Raise(site string, have map[StreamID]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.raiseLocked(site, have)
}

func (h *Holders) raiseLocked(site string, have map[StreamID]uint64) {
	for s, at := range have {
		if one := h.streamLocked(site, s); one != nil {
			one.upto, one.known = max(one.upto, at), true
			one.join()
		}
	}
}

// Begin says that a stream goes on at a position, at all sites: they have what there is of it before.
func (h *Holders) Begin(s StreamID, at uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for site := range h.sites {
		h.raiseLocked(site, map[StreamID]uint64{s: at})
	}
}

// Put says that a site has an object, of which its name says whether it is a part of a log.
func (h *Holders) Put(site, object string) {
	s, start, end, ok := parseExtentName(object)
	if !ok || !strings.HasPrefix(object, prefixLog) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if one := h.streamLocked(site, s); one != nil {
		one.ahead = append(one.ahead, Range{start, end})
		one.join()
	}
}

func (h *Holders) streamLocked(site string, s StreamID) *heldStream {
	x := h.sites[site]
	if x == nil {
		return nil
	}
	if x.streams[s] == nil {
		x.streams[s] = &heldStream{}
	}
	return x.streams[s]
}

// join takes in what is no longer ahead.
func (o *heldStream) join() {
	slices.SortFunc(o.ahead, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	rest := o.ahead[:0]
	for _, r := range o.ahead {
		switch n := len(rest); {
		case o.known && r.Start <= o.upto:
			o.upto = max(o.upto, r.End)
		case n > 0 && r.Start <= rest[n-1].End:
			rest[n-1].End = max(rest[n-1].End, r.End)
		default:
			rest = append(rest, r)
		}
	}
	o.ahead = rest
}

// At returns what a site has.
func (h *Holders) At(site string) map[StreamID]uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[StreamID]uint64{}
	if x := h.sites[site]; x != nil {
		for s, one := range x.streams {
			if one.says() {
				out[s] = one.upto
			}
		}
	}
	return out
}

// Of returns who has how much of a stream, by site.
func (h *Holders) Of(s StreamID) (out []Holder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for site, x := range h.sites {
		if one := x.streams[s]; one != nil && one.says() {
			out = append(out, Holder{site, x.replica, one.upto})
		}
	}
	slices.SortFunc(out, func(a, b Holder) int { return cmp.Compare(a.Site, b.Site) })
	return out
}

const (
	replicaBytes = 16
	maxHolders   = 4 << 10 // bytes of a list: some hundred replicas
)

var errHolders = errors.New("its list of replicas cannot be read")

// appendHolders writes a list. Whom it has no room for, or who has no name that is one, is left out: nothing is known then.
func appendHolders(b []byte, all []Holder) []byte {
	begin := len(b)
	for _, h := range all {
		id, err := hex.DecodeString(h.Replica)
		if err != nil || len(id) != replicaBytes || len(h.Site) > 255 || len(b)-begin+replicaBytes+9+len(h.Site) > maxHolders {
			continue
		}
		b = append(b, id...)
		b = binary.LittleEndian.AppendUint64(b, h.Upto)
		b = append(append(b, byte(len(h.Site))), h.Site...)
	}
	return b
}

// parseHolders is the inverse of appendHolders.
func parseHolders(b []byte) (out []Holder, err error) {
	for len(b) > 0 {
		if len(b) < replicaBytes+9 || len(b)-replicaBytes-9 < int(b[replicaBytes+8]) {
			return nil, errHolders
		}
		n := replicaBytes + 9 + int(b[replicaBytes+8])
		out = append(out, Holder{string(b[replicaBytes+9 : n]), hex.EncodeToString(b[:replicaBytes]), binary.LittleEndian.Uint64(b[replicaBytes:])})
		b = b[n:]
	}
	return out, nil
}
