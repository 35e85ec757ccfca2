package seal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/zeebo/blake3"
)

// The kinds of recipients.
const (
	RecipientAge        = "age"        // an age X25519 or hybrid public key, or an SSH public key
	RecipientPassphrase = "passphrase" // an age key of our making, itself sealed with scrypt
)

// maxSlot bounds a slot that is read: a few epochs more than any repository will have.
const maxSlot = 1 << 20

// Slot is the keyring wrapped for one recipient. Its JSON is what lies in the repository
// (docs/format/repository-v1.md, section 2). It holds no secret in the clear.
type Slot struct {
	Name      string    `json:"name"`      // what people call the recipient
	Kind      string    `json:"kind"`      // RecipientAge or RecipientPassphrase
	Recipient string    `json:"recipient"` // the public key that Keyring is wrapped for
	Identity  string    `json:"identity,omitempty"`
	Created   time.Time `json:"created"`
	Keyring   []byte    `json:"keyring"` // an age file
	MAC       string    `json:"mac"`     // keyed hash of the fields but Keyring, with the current epoch's secret
}

// Recipient is somebody for whom a keyring is wrapped.
type Recipient struct {
	Name     string
	kind     string
	public   string // an age or SSH public key
	identity string // for a passphrase: the private key, sealed with it
}

// KeyRecipient is the holder of the private half of an age or SSH public key ("age1…", "ssh-ed25519 …").
func KeyRecipient(name, public string) (Recipient, error) {
	public = strings.TrimSpace(public)
	if _, err := parseRecipient(public); err != nil {
		return Recipient{}, err
	}
	return Recipient{Name: name, kind: RecipientAge, public: public}, nil
}

// PassphraseRecipient is everybody who knows the passphrase. A key pair of its own stands between, so that a
// rotation can wrap for it without asking for the passphrase again. workFactor is scrypt's log2 N; 0 is age's
// default (about a second).
func PassphraseRecipient(name, passphrase string, workFactor int) (Recipient, error) {
	if len(passphrase) < 12 {
		return Recipient{}, fmt.Errorf("the passphrase has %d characters; at least 12 are needed", len(passphrase))
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return Recipient{}, err
	}
	scrypt, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return Recipient{}, err
	}
	if workFactor > 0 {
		scrypt.SetWorkFactor(workFactor)
	}
	sealed, err := ageEncrypt([]byte(id.String()), scrypt)
	if err != nil {
		return Recipient{}, err
	}
	return Recipient{Name: name, kind: RecipientPassphrase, public: id.Recipient().String(), identity: hex.EncodeToString(sealed)}, nil
}

// Wrap returns the slot that lets r open the keyring.
func (k *Keyring) Wrap(r Recipient, now time.Time) (*Slot, error) {
	to, err := parseRecipient(r.public)
	if err != nil {
		return nil, err
	}
	plain, err := k.marshal()
	if err != nil {
		return nil, err
	}
	wrapped, err := ageEncrypt(plain, to)
	if err != nil {
		return nil, err
	}
	s := &Slot{Name: r.Name, Kind: r.kind, Recipient: r.public, Identity: r.identity, Created: now.UTC(), Keyring: wrapped}
	s.MAC = k.slotMAC(s)
	return s, nil
}

// Authentic reports whether the slot was made by a holder of this keyring's current secret. A slot that is not
// must never be wrapped for again: a thief with write access may have put his own key there.
func (k *Keyring) Authentic(s *Slot) bool { return s.MAC == k.slotMAC(s) }

// Who returns whom the slot was wrapped for.
func (s *Slot) Who() Recipient {
	return Recipient{Name: s.Name, kind: s.Kind, public: s.Recipient, identity: s.Identity}
}

// ID returns 32 hexadecimal digits that name the recipient.
func (r Recipient) ID() string {
	h := blake3.Sum256([]byte(r.public))
	return hex.EncodeToString(h[:16])
}

func (k *Keyring) slotMAC(s *Slot) string {
	key := derive(k.epochs[len(k.epochs)-1].Secret, k.repository, contextSlot)
	h := newHasher(key)
	for _, f := range []string{s.Name, s.Kind, s.Recipient, s.Identity, s.Created.UTC().Format(time.RFC3339Nano)} {
		fmt.Fprintf(h, "%d:%s;", len(f), f)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ParseSlot reads a slot's JSON.
func ParseSlot(b []byte) (*Slot, error) {
	if len(b) > maxSlot {
		return nil, fmt.Errorf("a key slot of %d bytes is too large", len(b))
	}
	var s Slot
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("read key slot: %w", err)
	}
	return &s, nil
}

// ErrNoIdentity is the error of Unlock where no identity fits the slot. It says nothing about the others.
var ErrNoIdentity = errors.New("no identity opens this slot")

// Credentials are what a person or a host has to open slots with. They never print.
type Credentials struct {
	Passphrase string
	Identities []age.Identity
}

// String hides the credentials.
func (Credentials) String() string { return "(credentials)" }

// GoString hides the credentials from %#v.
func (Credentials) GoString() string { return "(credentials)" }

// Empty reports whether there is nothing to try.
func (c Credentials) Empty() bool { return c.Passphrase == "" && len(c.Identities) == 0 }

// ParseIdentities reads an age identity file or an unencrypted SSH private key.
func ParseIdentities(b []byte) ([]age.Identity, error) {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN")) {
		id, err := agessh.ParseIdentity(b)
		if err != nil {
			return nil, errors.New("it is no unencrypted SSH private key") // the cause may quote the key
		}
		return []age.Identity{id}, nil
	}
	ids, err := age.ParseIdentities(bytes.NewReader(b))
	if err != nil {
		return nil, errors.New("it is no age identity file")
	}
	return ids, nil
}

// Unlock opens the slot. ErrNoIdentity means that the credentials are not for it; another error that it is
// damaged.
func (s *Slot) Unlock(c Credentials) (*Keyring, error) {
	ids := c.Identities
	if s.Kind == RecipientPassphrase && c.Passphrase != "" {
		id, err := s.passphraseIdentity(c.Passphrase)
		if err != nil {
			return nil, err
		}
		ids = append(ids[:len(ids):len(ids)], id)
	}
	if len(ids) == 0 {
		return nil, ErrNoIdentity
	}
	plain, err := ageDecrypt(s.Keyring, ids...)
	if err != nil {
		return nil, err
	}
	k, err := unmarshalKeyring(plain)
	if err != nil {
		return nil, err
	}
	if !k.Authentic(s) {
		return nil, fmt.Errorf("key slot %q was changed by somebody who does not hold the keys", s.Name)
	}
	return k, nil
}

func (s *Slot) passphraseIdentity(passphrase string) (age.Identity, error) {
	sealed, err := hex.DecodeString(s.Identity)
	if err != nil {
		return nil, fmt.Errorf("key slot %q is damaged: its identity is not hexadecimal", s.Name)
	}
	scrypt, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	// A slot is hostile input: a huge work factor would hang whoever opens it (2^20 takes 4 s and 1 GiB).
	scrypt.SetMaxWorkFactor(20)
	plain, err := ageDecrypt(sealed, scrypt)
	if err != nil {
		return nil, err
	}
	id, err := age.ParseX25519Identity(string(plain))
	if err != nil {
		return nil, fmt.Errorf("key slot %q is damaged: its identity is no age key", s.Name)
	}
	return id, nil
}

func parseRecipient(public string) (age.Recipient, error) {
	var r age.Recipient
	var err error
	switch {
	case strings.HasPrefix(public, "ssh-"):
		r, err = agessh.ParseRecipient(public)
	case strings.HasPrefix(public, "age1pq1"):
		r, err = age.ParseHybridRecipient(public)
	default:
		r, err = age.ParseX25519Recipient(public)
	}
	if err != nil {
		return nil, fmt.Errorf("%q is no age recipient (age1…) and no SSH public key (ssh-ed25519 …, ssh-rsa …)", public)
	}
	return r, nil
}

func ageEncrypt(plain []byte, to age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func ageDecrypt(sealed []byte, ids ...age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if err != nil {
		var none *age.NoIdentityMatchError
		if errors.As(err, &none) {
			return nil, ErrNoIdentity
		}
		return nil, fmt.Errorf("open age file: %w", err)
	}
	return io.ReadAll(io.LimitReader(r, maxSlot))
}
