package quick

import (
	"hash/fnv"
	"strconv"
	"syscall"
)

// configVariable and configPlaces are where package config looks for a configuration that is not named; a test holds
// them together.
const configVariable = "HOLDFAST_CONFIG"

var configPlaces = []string{"holdfast.yaml", "/etc/holdfast/holdfast.yaml"}

// Address returns the name under which the archiver of a system is asked (see sidecar.Place.Alias); config is the file
// that --config names, or empty. Another user, another configuration (one that was edited is another one) and another
// program have other addresses, and so has a process that sees other files under the same paths: such names are of a network,
// which containers may share. It is empty where one of these cannot be told.
func Address(config, system string) string {
	h := fnv.New128a()
	add := func(numbers ...int64) {
		for _, n := range numbers {
			h.Write(strconv.AppendInt(nil, n, 36)) //nolint:errcheck // a hash never fails
			h.Write([]byte{' '})                   //nolint:errcheck // as above
		}
	}
	for _, file := range []string{"/proc/self/exe", findConfig(config)} {
		var st syscall.Stat_t
		if syscall.Stat(file, &st) != nil {
			return ""
		}
		add(int64(st.Dev), int64(st.Ino), st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec) //nolint:unconvert // Dev is smaller on some machines
	}
	for _, file := range []string{"/proc/self/ns/mnt", "/"} { // their times say nothing
		var st syscall.Stat_t
		if syscall.Stat(file, &st) != nil {
			return ""
		}
		add(int64(st.Dev), int64(st.Ino)) //nolint:unconvert // as above
	}
	add(int64(syscall.Geteuid()))
	h.Write([]byte(system)) //nolint:errcheck // as above
	const hex = "0123456789abcdef"
	name := []byte("holdfast-archiver-")
	for _, b := range h.Sum(nil) {
		name = append(name, hex[b>>4], hex[b&15])
	}
	return string(name)
}

func findConfig(config string) string {
	if config == "" {
		config, _ = syscall.Getenv(configVariable)
	}
	for _, place := range configPlaces {
		var st syscall.Stat_t
		if config == "" && syscall.Stat(place, &st) == nil {
			config = place
		}
	}
	return config
}
