package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Pack is evidence for somebody who has neither the repository nor this program: docs/evidence.md says how it is verified.
type Pack struct {
	Format     string    `json:"format"` // PackFormat
	Repository string    `json:"repository"`
	Created    time.Time `json:"created"`
	From       time.Time `json:"from,omitzero"` // records of what ended then, or later
	To         time.Time `json:"to,omitzero"`   // and before
	Logs       []PackLog `json:"logs"`
	Findings   []Finding `json:"findings"` // what verifying told when the pack was made
}

// PackFormat is the format of packs.
const PackFormat = "holdfast-evidence-pack/v1"

// PackLog is a log in a pack. Records are without a gap: from the first that is in the time that was asked for to the last.
type PackLog struct {
	Origin      string             `json:"log"`
	System      string             `json:"system,omitempty"`
	Signer      string             `json:"signer"`
	Host        string             `json:"host,omitempty"`
	Since       time.Time          `json:"since"`
	PublicKey   string             `json:"publicKey"`  // PEM
	NoteKey     string             `json:"noteKey"`    // as signed notes have it
	Checkpoint  string             `json:"checkpoint"` // the newest
	Leaves      []string           `json:"leaves"`     // hashes of all records, hex; empty texts are of records that are missing
	Records     []PackRecord       `json:"records"`
	Consistency []ConsistencyProof `json:"consistency,omitempty"`
}

// PackRecord is a record in a pack.
type PackRecord struct {
	Index      uint64    `json:"index"`
	Envelope   string    `json:"envelope"`   // exact bytes, of which the leaf is the hash
	Checkpoint string    `json:"checkpoint"` // of the log when this was its last record
	Proof      []string  `json:"proof"`      // of inclusion in the newest checkpoint's tree (RFC 6962, 2.1.1), base64
	Statement  Statement `json:"statement"`  // what the envelope says, to be read
}

// ConsistencyProof proves that the newest checkpoint's tree begins with a smaller one (RFC 6962, 2.1.2).
type ConsistencyProof struct {
	Size  uint64   `json:"size"`
	Root  string   `json:"root"`  // base64
	Proof []string `json:"proof"` // base64
}

// Pack returns the records of what ended from one time on and before another; a zero time is no bound.
func (b *Book) Pack(v Verified, from, to, now time.Time) (*Pack, error) {
	p := &Pack{Format: PackFormat, Repository: b.Repository, Created: now.UTC().Truncate(time.Second), From: from, To: to, Logs: []PackLog{}, Findings: v.Findings}
	for _, l := range b.Logs {
		if len(l.Records) == 0 {
			continue
		}
		one, err := l.pack(from, to)
		if err != nil {
			return nil, fmt.Errorf("export the log %s: %w", l.Origin, err)
		}
		p.Logs = append(p.Logs, one)
	}
	return p, nil
}

// within returns the records from the first to the last one in a time: what is between two of them belongs to the proof that nothing was left out.
func (l *Log) within(from, to time.Time) []*Record {
	first, last := -1, -1
	for i, r := range l.Records {
		at := r.Statement.Finished
		if at.Before(from) || !to.IsZero() && !at.Before(to) {
			continue
		}
		if first < 0 {
			first = i
		}
		last = i
	}
	if first < 0 {
		return nil
	}
	return l.Records[first : last+1]
}

func (l *Log) pack(from, to time.Time) (PackLog, error) {
	out := PackLog{
		Origin: l.Origin, System: l.System, Signer: l.EvidenceLog.Signer, Host: l.Signer.Host, Since: l.Signer.Added,
		Checkpoint: string(l.Records[len(l.Records)-1].Checkpoint), Leaves: make([]string, l.Size()), Records: []PackRecord{},
	}
	var err error
	if out.PublicKey, err = publicPEM(l.Signer.Key); err != nil {
		return out, err
	}
	if out.NoteKey, err = l.Signer.Key.NoteKey(l.Origin); err != nil {
		return out, err
	}
	var leaves []tlog.Hash
	for _, r := range l.Records {
		out.Leaves[r.Index] = hex.EncodeToString(r.Hash[:])
		leaves = append(leaves, r.Hash)
	}
	whole := uint64(len(leaves)) == l.Size() // else nothing can be proven of the tree; the findings say so
	hashes := tlog.HashReaderFunc(nil)
	if whole {
		if hashes, err = storedHashes(leaves); err != nil {
			return out, err
		}
	}
	size := int64(l.Size())
	for _, r := range l.within(from, to) {
		rec := PackRecord{Index: r.Index, Envelope: string(r.Envelope), Checkpoint: string(r.Checkpoint), Proof: []string{}, Statement: r.Statement}
		if whole {
			proof, err := tlog.ProveRecord(size, int64(r.Index), hashes)
			if err != nil {
				return out, err
			}
			rec.Proof = texts(proof)
		}
		out.Records = append(out.Records, rec)
	}
	if whole && len(out.Records) > 0 {
		out.Consistency, err = consistency(size, hashes, int64(out.Records[0].Index), int64(out.Records[len(out.Records)-1].Index)+1)
	}
	return out, err
}

// consistency proves that a tree begins with some smaller ones.
func consistency(size int64, hashes tlog.HashReader, from ...int64) (out []ConsistencyProof, err error) {
	for _, n := range from {
		if n == 0 || n == size {
			continue
		}
		root, err := tlog.TreeHash(n, hashes)
		if err != nil {
			return nil, err
		}
		proof, err := tlog.ProveTree(size, n, hashes)
		if err != nil {
			return nil, err
		}
		out = append(out, ConsistencyProof{uint64(n), encode64(root), texts(proof)})
	}
	return out, nil
}

// storedHashes returns the nodes of the tree over leaves.
func storedHashes(leaves []tlog.Hash) (tlog.HashReaderFunc, error) {
	var all []tlog.Hash
	read := func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			if x >= int64(len(all)) {
				return nil, fmt.Errorf("the tree has no node %d", x)
			}
			out[i] = all[x]
		}
		return out, nil
	}
	for n, leaf := range leaves {
		more, err := tlog.StoredHashesForRecordHash(int64(n), leaf, tlog.HashReaderFunc(read))
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return read, nil
}

func texts(proof []tlog.Hash) []string {
	out := []string{}
	for _, h := range proof {
		out = append(out, encode64(h))
	}
	return out
}

func hashesOf(texts []string) (out []tlog.Hash, err error) {
	for _, t := range texts {
		b, err := base64.StdEncoding.DecodeString(t)
		if err != nil || len(b) != tlog.HashSize {
			return nil, fmt.Errorf("%.50q is no hash", t)
		}
		out = append(out, tlog.Hash(b))
	}
	return out, nil
}

// publicPEM returns a key as openssl reads it (RFC 8410).
func publicPEM(key seal.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(ed25519Key(key))
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// JSON returns the pack in one document.
func (p *Pack) JSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(p)
	return b.Bytes(), err
}
