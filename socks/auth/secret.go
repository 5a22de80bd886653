package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// secret is a password as it is kept.
type secret interface {
	// matches compares in a time that does not depend on the password.
	matches(pass string) bool
	// cost orders secrets by how long matches takes; 0 is next to nothing.
	cost() int64
	// identity is the same for two secrets that were given alike. It is as
	// secret as they are.
	identity() string
}

// parseSecret tells hashes from plain passwords by the way they begin.
func parseSecret(text string) (secret, error) {
	switch {
	case strings.HasPrefix(text, "$2a$"), strings.HasPrefix(text, "$2b$"), strings.HasPrefix(text, "$2y$"):
		cost, err := bcrypt.Cost([]byte(text))
		if err != nil || len(text) != 60 {
			return nil, errors.New("broken bcrypt hash: make one with htpasswd -nB USER")
		}
		return bcryptSecret{hash: text, bits: cost}, nil
	case strings.HasPrefix(text, "$argon2id$"), strings.HasPrefix(text, "$argon2i$"):
		return parseArgon2(text)
	}
	return plainSecret(sha256.Sum256([]byte(text))), nil
}

// plainSecret is the digest of a password that was given plain: comparing
// digests takes the same time whatever the lengths.
type plainSecret [sha256.Size]byte

func (s plainSecret) matches(pass string) bool {
	sum := sha256.Sum256([]byte(pass))
	return subtle.ConstantTimeCompare(s[:], sum[:]) == 1
}

func (plainSecret) cost() int64 { return 0 }

func (s plainSecret) identity() string { return string(s[:]) }

type bcryptSecret struct {
	hash string
	bits int
}

func (s bcryptSecret) matches(pass string) bool {
	return bcrypt.CompareHashAndPassword([]byte(s.hash), []byte(pass)) == nil
}

// cost is in microseconds on a common core, roughly.
func (s bcryptSecret) cost() int64 { return 50 << s.bits }

func (s bcryptSecret) identity() string { return s.hash }

type argon2Secret struct {
	key     func(pass, salt []byte, time, memory uint32, threads uint8, size uint32) []byte
	memory  uint32 // KiB
	time    uint32
	threads uint8
	salt    []byte
	hash    []byte
	text    string // all of it, as it was given
}

func (s *argon2Secret) matches(pass string) bool {
	got := s.key([]byte(pass), s.salt, s.time, s.memory, s.threads, uint32(len(s.hash)))
	return subtle.ConstantTimeCompare(got, s.hash) == 1
}

func (s *argon2Secret) cost() int64 { return max(1, int64(s.memory)*int64(s.time)) }

func (s *argon2Secret) identity() string { return s.text }

// The most that a hash in the file may ask for: the file is trusted, but a slip
// in it should not take the machine down.
const (
	maxArgon2Memory = 4 << 20 // KiB
	maxArgon2Time   = 1000
)

// parseArgon2 parses $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH, the PHC string
// format, with base64 without padding.
func parseArgon2(text string) (secret, error) {
	broken := errors.New("broken argon2 hash: make one with argon2 SALT -id -e")
	part := strings.Split(text, "$")
	if len(part) != 6 || part[2] != "v=19" {
		return nil, broken
	}
	s := &argon2Secret{key: argon2.IDKey, text: text}
	if part[1] == "argon2i" {
		s.key = argon2.Key
	}
	if n, err := fmt.Sscanf(part[3], "m=%d,t=%d,p=%d", &s.memory, &s.time, &s.threads); n != 3 || err != nil {
		return nil, broken
	}
	if part[3] != fmt.Sprintf("m=%d,t=%d,p=%d", s.memory, s.time, s.threads) || s.time < 1 || s.threads < 1 {
		return nil, broken
	}
	if s.memory > maxArgon2Memory || s.time > maxArgon2Time {
		return nil, fmt.Errorf("argon2 hash asks for more than %d KiB or %d passes", maxArgon2Memory, maxArgon2Time)
	}
	var err1, err2 error
	s.salt, err1 = base64.RawStdEncoding.DecodeString(part[4])
	s.hash, err2 = base64.RawStdEncoding.DecodeString(part[5])
	if err1 != nil || err2 != nil || len(s.salt) < 8 || len(s.hash) < 4 || len(s.hash) > 1024 {
		return nil, broken
	}
	return s, nil
}
