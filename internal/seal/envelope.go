package seal

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/mod/sumdb/note"
)

// A signer's key signs three forms of message, of which none can be taken for another: what Sign signs begins with
// "holdfast/v1/sign/" and has a zero byte, which a note must not have; what an envelope signs begins with "DSSEv1 ", and the first
// line of a note is the name of its key, which has no space.

// EnvelopeMessage returns what is signed of an envelope's payload: its pre-authentication encoding (DSSE 1.0.2, protocol.md).
func EnvelopeMessage(payloadType string, payload []byte) []byte {
	b := fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload))
	return append(b, payload...)
}

// SignEnvelope signs the payload of a DSSE envelope with plain Ed25519, so that others' tools verify it.
func (s *Signer) SignEnvelope(payloadType string, payload []byte) []byte {
	return ed25519.Sign(s.key, EnvelopeMessage(payloadType, payload))
}

// VerifyEnvelope reports whether signature is this key's for an envelope's payload.
func (p PublicKey) VerifyEnvelope(payloadType string, payload, signature []byte) bool {
	return ed25519.Verify(p[:], EnvelopeMessage(payloadType, payload), signature)
}

// Note returns the signer of notes (golang.org/x/mod/sumdb/note) under a name without spaces and pluses.
func (s *Signer) Note(name string) note.Signer { return noteSigner{s, name} }

type noteSigner struct {
	signer *Signer
	name   string
}

func (n noteSigner) Name() string    { return n.name }
func (n noteSigner) KeyHash() uint32 { return n.signer.Public().noteHash(n.name) }

func (n noteSigner) Sign(message []byte) ([]byte, error) {
	return ed25519.Sign(n.signer.key, message), nil
}

// algEd25519 is the number of the algorithm in a note's keys.
const algEd25519 = 1

// noteHash is the hash by which a note names a key (note.go, keyHash).
func (p PublicKey) noteHash(name string) uint32 {
	h := sha256.Sum256(append([]byte(name+"\n"), append([]byte{algEd25519}, p[:]...)...))
	return binary.BigEndian.Uint32(h[:])
}

// NoteKey returns the public key as those write it who verify notes: NAME+HASH+KEY.
func (p PublicKey) NoteKey(name string) (string, error) {
	return note.NewEd25519VerifierKey(name, p[:])
}

// NoteVerifier returns who verifies the notes of this key under a name.
func (p PublicKey) NoteVerifier(name string) (note.Verifier, error) {
	key, err := p.NoteKey(name)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(key)
}
