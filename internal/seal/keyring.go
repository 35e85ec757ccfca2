package seal

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/zeebo/blake3"
)

// Contexts of the derived keys. One purpose, one name: a key for one thing never serves another.
const (
	contextChunkID = "holdfast/v1/chunk-id"
	contextName    = "holdfast/v1/name"
	contextSlot    = "holdfast/v1/slot"
	contextEpoch   = "holdfast/v1/epoch-check"
	contextProof   = "holdfast/v1/epoch-proof"
	contextObject  = "holdfast/v1/object"
	contextID      = "holdfast/v1/repository-id"
)

// ChunkID names a chunk by the keyed BLAKE3 hash of its plain bytes. It tells nothing to who has no key.
type ChunkID [32]byte

// String returns the ID in hexadecimal.
func (id ChunkID) String() string { return hex.EncodeToString(id[:]) }

// ParseChunkID reads what String wrote.
func ParseChunkID(s string) (ChunkID, error) {
	var id ChunkID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%q is no chunk ID: 64 hexadecimal digits are expected", s)
	}
	copy(id[:], b)
	return id, nil
}

// Epoch is one generation of the repository's secret.
type Epoch struct {
	Number  uint32    `json:"number"`  // 1, 2, 3 …
	Secret  Secret    `json:"secret"`  // 32 random bytes
	Created time.Time `json:"created"` // for people; nothing depends on it
}

// Secret is 32 bytes that no log, error or evidence may show: it prints as "(secret)".
type Secret [32]byte

// String hides the secret.
func (Secret) String() string { return "(secret)" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "(secret)" }

// LogValue hides the secret from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// MarshalText writes the secret in hexadecimal. Only a slot's plain text, which age seals, is made of it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(s[:])), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Secret) UnmarshalText(b []byte) error {
	if len(b) != 2*len(s) {
		return errors.New("a secret has 64 hexadecimal digits")
	}
	if _, err := hex.Decode(s[:], b); err != nil {
		return errors.New("a secret has hexadecimal digits only") // not the cause: it quotes a digit of the secret
	}
	return nil
}

// Keyring holds the secrets of all epochs of one repository. It does not change once made; rotation makes a
// new one. It may be used by several goroutines.
type Keyring struct {
	repository string
	epochs     []Epoch // ascending; the last one is current
	name       [32]byte
	chunkIDs   sync.Map // residency group → *chunkKey
}

// NewKeyring makes the keyring of a new repository: epoch 1 with a random secret. The repository's ID is derived
// from it, so that nobody can put other keys under the ID that a configuration names.
func NewKeyring(now time.Time) (*Keyring, error) {
	first := Epoch{Number: 1, Secret: newSecret(), Created: now.UTC()}
	return newKeyring(repositoryID(first.Secret), []Epoch{first})
}

func repositoryID(first Secret) string {
	id := derive(first, "", contextID)
	return hex.EncodeToString(id[:16])
}

// Rotate returns a keyring with one more epoch, which becomes the current one.
func (k *Keyring) Rotate(now time.Time) (*Keyring, error) {
	epochs := append(k.epochs[:len(k.epochs):len(k.epochs)], Epoch{Number: k.Epoch() + 1, Secret: newSecret(), Created: now.UTC()})
	return newKeyring(k.repository, epochs)
}

func newKeyring(repository string, epochs []Epoch) (*Keyring, error) {
	if len(epochs) == 0 {
		return nil, errors.New("the keyring holds no epoch")
	}
	for i, e := range epochs {
		if e.Number != uint32(i+1) {
			return nil, fmt.Errorf("the keyring's epoch %d has the number %d", i+1, e.Number)
		}
	}
	if repository != repositoryID(epochs[0].Secret) {
		return nil, errors.New("the keyring's secret is not that of its repository")
	}
	k := &Keyring{repository: repository, epochs: epochs}
	// Chunk IDs and name hashes come from the first epoch for ever: otherwise every chunk would be stored again
	// after a rotation. IDs are never visible without the current keys, so this gives an old key holder nothing.
	k.name = derive(epochs[0].Secret, repository, contextName)
	return k, nil
}

// Repository returns the ID of the repository that the keys belong to.
func (k *Keyring) Repository() string { return k.repository }

// Epoch returns the number of the current epoch, whose secret seals what is written now.
func (k *Keyring) Epoch() uint32 { return k.epochs[len(k.epochs)-1].Number }

// Epochs returns number and time of each epoch, without the secrets, oldest first.
func (k *Keyring) Epochs() []Epoch {
	es := make([]Epoch, len(k.epochs))
	for i, e := range k.epochs {
		es[i] = Epoch{Number: e.Number, Created: e.Created}
	}
	return es
}

// ChunkID returns the name of a chunk with these plain bytes in a residency group. Equal bytes in two groups have
// two names: what one group stores is never shared with another, which may have to live elsewhere.
func (k *Keyring) ChunkID(group string, plain []byte) ChunkID {
	hashers := &k.chunkKey(group).hashers
	h := hashers.Get().(*blake3.Hasher)
	defer hashers.Put(h)
	h.Reset()
	h.Write(plain) //nolint:errcheck // a hash never fails
	var id ChunkID
	h.Sum(id[:0])
	return id
}

// chunkKey is the key of a residency group's chunk IDs.
type chunkKey struct {
	hashers sync.Pool // with the key
	tree    treeKey   // the key
}

func (k *Keyring) chunkKey(group string) *chunkKey {
	c, ok := k.chunkIDs.Load(group)
	if !ok {
		key := derive(k.epochs[0].Secret, k.repository, contextChunkID+"/"+group)
		c, _ = k.chunkIDs.LoadOrStore(group, &chunkKey{
			hashers: sync.Pool{New: func() any { return newHasher(key) }}, tree: treeKey(valueOf(key[:])),
		})
	}
	return c.(*chunkKey)
}

// newHasher returns a keyed hasher. The hash of a chunk is what a restore spends a third of its computing on, so
// the library was chosen by measuring (on x86, where gathers are slow, it is twice as fast as its peer).
func newHasher(key [32]byte) *blake3.Hasher {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("seal: BLAKE3 refuses a key of 32 bytes: " + err.Error())
	}
	return h
}

// NameHash returns 32 hexadecimal digits that stand for name in object names, so that a store's listing does
// not tell it.
func (k *Keyring) NameHash(name string) string {
	h := newHasher(k.name)
	h.Write([]byte(name)) //nolint:errcheck // a hash never fails
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// EpochCheck returns 32 hexadecimal digits that tell whether somebody has the secret of epoch n, without
// telling the secret. It is empty where the keyring has no such epoch.
func (k *Keyring) EpochCheck(n uint32) string {
	e, ok := k.epoch(n)
	if !ok {
		return ""
	}
	key := derive(e.Secret, k.repository, contextEpoch)
	return hex.EncodeToString(key[:16])
}

// EpochProof returns what only a holder of the first epoch's secret, and so of any keyring of the repository, can say of an epoch's
// object: also one whose keyring is older can tell a rotation from what somebody without keys has put there.
func (k *Keyring) EpochProof(n uint32, generation, check string) string {
	h := newHasher(derive(k.epochs[0].Secret, k.repository, contextProof))
	fmt.Fprintf(h, "%d;%d:%s;%d:%s;", n, len(generation), generation, len(check), check)
	return hex.EncodeToString(h.Sum(nil))
}

func (k *Keyring) epoch(n uint32) (Epoch, bool) {
	if n == 0 || int(n) > len(k.epochs) {
		return Epoch{}, false
	}
	return k.epochs[n-1], true
}

// marshal writes what a slot seals.
func (k *Keyring) marshal() ([]byte, error) {
	return json.Marshal(keyringJSON{Repository: k.repository, Epochs: k.epochs})
}

func unmarshalKeyring(b []byte) (*Keyring, error) {
	var j keyringJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, errors.New("the slot's keyring cannot be read") // not the cause: it may quote a secret
	}
	return newKeyring(j.Repository, j.Epochs)
}

type keyringJSON struct {
	Repository string  `json:"repository"`
	Epochs     []Epoch `json:"epochs"`
}

// derive returns the key for one purpose in one repository (RFC 5869, HKDF with SHA-256).
func derive(secret Secret, repository, context string) [32]byte {
	key, err := hkdf.Key(sha256.New, secret[:], []byte(repository), context, 32)
	if err != nil {
		panic("seal: HKDF refuses 32 bytes: " + err.Error()) // only for lengths over 255 hashes
	}
	return [32]byte(key)
}

func newSecret() (s Secret) {
	rand.Read(s[:]) //nolint:errcheck // crypto/rand.Read never returns an error since Go 1.24
	return s
}
