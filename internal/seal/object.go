package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind says what an object is. It is part of the object's key: a pack never opens as an index.
type Kind uint8

// The kinds of sealed objects (docs/format/repository-v1.md, section 3).
const (
	KindPack       Kind = 1
	KindIndex      Kind = 2
	KindSnapshot   Kind = 3
	KindSystem     Kind = 4
	KindIntent     Kind = 5
	KindCollection Kind = 6
	KindLogExtent  Kind = 7
	KindLogFile    Kind = 8
	KindMark       Kind = 9
	KindSigner     Kind = 10
	KindSummary    Kind = 11
	KindReplica    Kind = 12
	KindPlace      Kind = 13
	KindRoll       Kind = 14
	KindEvidence   Kind = 15
)

const (
	magic = "HFO1"

	// HeaderSize is the length of an object's header: magic, kind, three zero bytes, epoch, salt.
	HeaderSize = 4 + 1 + 3 + 4 + 32

	// Overhead is what sealing adds to a frame: the tag of AES-GCM.
	Overhead = 16
)

// DamagedError says that bytes are not what was sealed: changed, cut, moved to another name, or sealed for
// another repository. Repeating the read of the same bytes is useless.
type DamagedError struct {
	Name   string // the object
	Offset int64  // of the frame in it
	Reason string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("object %s is damaged at byte %d (%s)", e.Name, e.Offset, e.Reason)
}

// ErrUnknownEpoch is in the error of opening an object whose epoch the keyring does not hold: it is newer than
// the keyring, or its header is damaged.
var ErrUnknownEpoch = errors.New("key epoch is not in the keyring")

// Header is what an object's first bytes say: all that is needed, besides a keyring, to open its frames.
type Header struct {
	Kind  Kind
	Epoch uint32
	Salt  [32]byte
}

// ParseHeader reads the header of the object called name.
func ParseHeader(name string, b []byte) (Header, error) {
	var h Header
	switch {
	case len(b) < HeaderSize:
		return h, &DamagedError{name, 0, fmt.Sprintf("%d bytes are no header", len(b))}
	case string(b[:4]) != magic:
		return h, &DamagedError{name, 0, "it does not begin like an object of format 1"}
	case b[5] != 0 || b[6] != 0 || b[7] != 0:
		return h, &DamagedError{name, 5, "reserved bytes are not zero"}
	}
	h.Kind = Kind(b[4])
	h.Epoch = binary.LittleEndian.Uint32(b[8:])
	copy(h.Salt[:], b[12:HeaderSize])
	return h, nil
}

func (h Header) append(dst []byte) []byte {
	dst = append(dst, magic...)
	dst = append(dst, byte(h.Kind), 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, h.Epoch)
	return append(dst, h.Salt[:]...)
}

// Object seals or opens the frames of one object. Its methods may be called from several goroutines, since a
// frame's nonce is its offset and nothing else is kept.
type Object struct {
	name   string
	header Header
	aead   cipher.AEAD
}

// NewObject begins an object of this kind and name with a fresh salt in the current epoch. Each object that is
// written needs its own: the salt is why no nonce repeats across two versions of one name.
func (k *Keyring) NewObject(kind Kind, name string) *Object {
	h := Header{Kind: kind, Epoch: k.Epoch()}
	rand.Read(h.Salt[:]) //nolint:errcheck // never fails since Go 1.24
	o, err := k.Object(h, name)
	if err != nil {
		panic("seal: the current epoch is unknown: " + err.Error())
	}
	return o
}

// Object returns the opener of the object that has this header and name.
func (k *Keyring) Object(h Header, name string) (*Object, error) {
	e, ok := k.epoch(h.Epoch)
	if !ok {
		return nil, fmt.Errorf("object %s: epoch %d: %w", name, h.Epoch, ErrUnknownEpoch)
	}
	info := contextObject + "\x00" + string(rune(h.Kind)) + "\x00" + k.repository + "\x00" + name
	key, err := hkdf.Key(sha256.New, e.Secret[:], h.Salt[:], info, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Object{name: name, header: h, aead: aead}, nil
}

// Header returns the object's header.
func (o *Object) Header() Header { return o.header }

// AppendHeader appends the object's first HeaderSize bytes to dst.
func (o *Object) AppendHeader(dst []byte) []byte { return o.header.append(dst) }

// Seal appends the sealed frame that begins at byte offset of the object to dst. No two frames of one object
// may have one offset: an offset is the frame's nonce. plain may begin
// exactly at dst's end, and is then overwritten; it must not overlap dst's spare capacity otherwise.
func (o *Object) Seal(dst, plain []byte, offset int64) []byte {
	n := nonce(offset)
	return o.aead.Seal(dst, n[:], plain, nil)
}

// Open appends the plain bytes of the frame that begins at byte offset to dst. The error is a *DamagedError.
// sealed may be overwritten where dst is sealed[:0].
func (o *Object) Open(dst, sealed []byte, offset int64) ([]byte, error) {
	n := nonce(offset)
	plain, err := o.aead.Open(dst, n[:], sealed, nil)
	if err != nil {
		return nil, &DamagedError{o.name, offset &^ Directory, "authentication failed"}
	}
	return plain, nil
}

// Directory, added to an offset, is the place of a frame that is not content but says where content lies: a
// frame of one sort never opens as one of the other, although a store may cut the object anywhere.
const Directory int64 = 1 << 62

func nonce(offset int64) (n [12]byte) {
	binary.LittleEndian.PutUint64(n[:], uint64(offset))
	return n
}

// SealWhole returns an object of one frame.
func (k *Keyring) SealWhole(kind Kind, name string, plain []byte) []byte {
	o := k.NewObject(kind, name)
	b := o.AppendHeader(make([]byte, 0, HeaderSize+len(plain)+Overhead))
	return o.Seal(b, plain, HeaderSize)
}

// OpenWhole opens an object of one frame. sealed is overwritten with the result.
func (k *Keyring) OpenWhole(kind Kind, name string, sealed []byte) ([]byte, error) {
	h, err := ParseHeader(name, sealed)
	if err != nil {
		return nil, err
	}
	if h.Kind != kind {
		return nil, &DamagedError{name, 4, fmt.Sprintf("it is of kind %d, not %d", h.Kind, kind)}
	}
	o, err := k.Object(h, name)
	if err != nil {
		return nil, err
	}
	return o.Open(sealed[HeaderSize:HeaderSize], sealed[HeaderSize:], HeaderSize)
}
