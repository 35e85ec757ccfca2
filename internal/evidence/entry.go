package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// entry is the content of the object of one record: docs/format/evidence-v1.md.
type entry struct {
	index      uint64
	envelope   []byte
	checkpoint []byte   // signed, of the log with this record
	frontier   frontier // of that tree
}

const entryVersion = 1

type entryJSON struct {
	Version    int      `json:"version"`
	Index      uint64   `json:"index"`
	Envelope   string   `json:"envelope"`
	Checkpoint string   `json:"checkpoint"`
	Frontier   []string `json:"frontier"`
}

func (e *entry) marshal() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(entryJSON{entryVersion, e.index, string(e.envelope), string(e.checkpoint), e.frontier.marshal()})
	return b.Bytes(), err
}

// parseEntry reads an entry, whose signatures nobody has looked at yet.
func parseEntry(b []byte) (*entry, error) {
	var j entryJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, errors.New("its JSON cannot be read")
	}
	if j.Version != entryVersion {
		return nil, fmt.Errorf("it has version %d, and this holdfast knows %d", j.Version, entryVersion)
	}
	f, err := parseFrontier(j.Frontier)
	if err != nil {
		return nil, err
	}
	if j.Index >= 1<<62 || len(f) != bits.OnesCount64(j.Index+1) {
		return nil, errors.New("its frontier is not of a tree with this record as its last")
	}
	return &entry{j.Index, []byte(j.Envelope), []byte(j.Checkpoint), f}, nil
}

// prove returns the checkpoint that a key has signed for the log with this entry as its last, after everything in the entry has proven to
// fit to it but the records before.
func (e *entry) prove(origin string, index uint64, key seal.PublicKey) (Checkpoint, error) {
	c, err := openCheckpoint(e.checkpoint, key)
	switch {
	case err != nil:
		return c, err
	case c.Origin != origin:
		return c, fmt.Errorf("it is of the log %s", c.Origin)
	case e.index != index || c.Size != index+1:
		return c, fmt.Errorf("it is record %d of a log of %d", e.index, c.Size)
	case e.frontier.root() != c.Root:
		return c, errors.New("its frontier has another root than its checkpoint")
	}
	// Where the record makes a subtree by itself, the frontier names it. Otherwise who has the records before sees whether it fits.
	if e.index&1 == 0 && e.frontier[len(e.frontier)-1] != leafOf(e.envelope) {
		return c, errors.New("its record is not that of its checkpoint")
	}
	return c, nil
}

// head is what a writer needs of a log.
type head struct {
	size     uint64
	frontier frontier
	last     tlog.Hash // leaf of the last record
}

func (e *entry) head() head { return head{e.index + 1, e.frontier, leafOf(e.envelope)} }

// next makes the entry that follows.
func (h head) next(origin string, envelope []byte, by *seal.Signer) (*entry, error) {
	f := h.frontier.add(h.size, leafOf(envelope))
	signed, err := Checkpoint{origin, h.size + 1, f.root()}.sign(by)
	if err != nil {
		return nil, err
	}
	return &entry{h.size, envelope, signed, f}, nil
}
