package evidence

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Checkpoint says how many records a log has, and the root of their tree.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   tlog.Hash
}

const originPrefix = "holdfast-evidence/"

// Origin names a log of a repository everywhere. It is the name of the key that signs the log's checkpoints, too.
func Origin(repository string, l repo.EvidenceLog) string {
	return originPrefix + repository + "/" + string(l.Scope) + "/" + l.Signer
}

// parseOrigin is the reverse of Origin.
func parseOrigin(origin string) (repository string, l repo.EvidenceLog, ok bool) {
	rest, found := strings.CutPrefix(origin, originPrefix)
	parts := strings.Split(rest, "/")
	if !found || len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return "", l, false
	}
	return parts[0], repo.EvidenceLog{Scope: repo.EvidenceScope(parts[1]), Signer: parts[2]}, true
}

// text returns the lines that are signed (C2SP, tlog-checkpoint.md).
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, encode64(c.Root))
}

func (c Checkpoint) sign(by *seal.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.text()}, by.Note(c.Origin))
}

// openCheckpoint returns what a note says that the key has signed.
func openCheckpoint(signed []byte, key seal.PublicKey) (Checkpoint, error) {
	c, err := readCheckpoint(signed)
	if err != nil {
		return c, err
	}
	verifier, err := key.NoteVerifier(c.Origin)
	if err != nil {
		return c, fmt.Errorf("the checkpoint's origin: %w", err)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return c, errors.New("the checkpoint's signature is not that of signer " + key.ID())
	}
	return parseCheckpoint(n.Text)
}

// readCheckpoint returns what a note says, without knowing who has signed it.
func readCheckpoint(signed []byte) (Checkpoint, error) {
	text, _, found := bytes.Cut(signed, []byte("\n\n"))
	if !found {
		return Checkpoint{}, errors.New("it is no signed checkpoint")
	}
	return parseCheckpoint(string(text) + "\n")
}

func parseCheckpoint(text string) (c Checkpoint, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 {
		return c, errors.New("a checkpoint has three lines")
	}
	c.Origin = lines[0]
	if _, _, ok := parseOrigin(c.Origin); !ok {
		return c, fmt.Errorf("the checkpoint is of %q, which is no log of evidence", c.Origin)
	}
	if c.Size, err = strconv.ParseUint(lines[1], 10, 62); err != nil || strconv.FormatUint(c.Size, 10) != lines[1] {
		return c, errors.New("the checkpoint's size is no number")
	}
	if c.Root, err = tlog.ParseHash(lines[2]); err != nil {
		return c, errors.New("the checkpoint's root is no hash")
	}
	return c, nil
}

// frontier are the roots of the full subtrees of a tree, the largest first: all that is needed to add a leaf, and to compute the root.
type frontier []tlog.Hash

// add returns the frontier of a tree of size leaves with one more.
func (f frontier) add(size uint64, leaf tlog.Hash) frontier {
	out := append(append(frontier(nil), f...), leaf)
	for ; size&1 == 1; size >>= 1 {
		n := len(out)
		out = append(out[:n-2], tlog.NodeHash(out[n-2], out[n-1]))
	}
	return out
}

// root returns the root of the tree.
func (f frontier) root() tlog.Hash {
	if len(f) == 0 {
		h, _ := tlog.TreeHash(0, nil)
		return h
	}
	h := f[len(f)-1]
	for i := len(f) - 2; i >= 0; i-- {
		h = tlog.NodeHash(f[i], h)
	}
	return h
}

func (f frontier) marshal() (out []string) {
	for _, h := range f {
		out = append(out, encode64(h))
	}
	return out
}

func parseFrontier(texts []string) (f frontier, err error) {
	if len(texts) > 64 {
		return nil, errors.New("its frontier is too long")
	}
	for _, t := range texts {
		b, err := base64.StdEncoding.DecodeString(t)
		if err != nil || len(b) != tlog.HashSize {
			return nil, errors.New("its frontier has something that is no hash")
		}
		f = append(f, tlog.Hash(b))
	}
	return f, nil
}
