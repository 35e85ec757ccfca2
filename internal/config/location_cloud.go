package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
)

var (
	// These are the parameters that store/open reads, as in location.go.
	googleOptions = []string{"endpoint", "key-file", "storage-class", "kms-key"}
	azureOptions  = []string{"endpoint", "key-file", "sas-file", "tier"}
	// What somebody may paste of a shared access signature or a key. It is told before anything is repeated.
	secretOptions = []string{"sig", "sas", "key", "account-key", "accountkey", "private-key", "token", "secret", "password"}
)

func checkGoogleURL(u *url.URL) error {
	options, err := cloudOptions(u, googleOptions, "Google's")
	if err != nil {
		return err
	}
	if !isName(u.Host, 3, 222, "._-") {
		return fmt.Errorf("%s is no name of a bucket (3 to 222 characters of [a-z0-9._-])", quote(u.Host))
	}
	if c := options.Get("storage-class"); c != "" && !slices.Contains([]string{"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"}, c) {
		return errors.New("option storage-class is STANDARD, NEARLINE, COLDLINE or ARCHIVE")
	}
	return nil
}

func checkAzureURL(u *url.URL) error {
	options, err := cloudOptions(u, azureOptions, "Azure's")
	if err != nil {
		return err
	}
	container, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case !isName(u.Host, 3, 24, ""):
		return fmt.Errorf("%s is no name of a storage account (3 to 24 characters of [a-z0-9]): write azblob://account/container/prefix", quote(u.Host))
	case !isName(container, 3, 63, "-") || strings.Contains(container, "--"):
		return fmt.Errorf("%s is no name of a container (3 to 63 characters of [a-z0-9-]): write azblob://account/container/prefix", quote(container))
	case options.Get("key-file") != "" && options.Get("sas-file") != "":
		return errors.New("options key-file and sas-file exclude each other")
	case options.Get("tier") != "" && !slices.Contains([]string{"Hot", "Cool", "Cold"}, options.Get("tier")):
		return errors.New("option tier is Hot, Cool or Cold; what is archived cannot be read at once")
	}
	return nil
}

// cloudOptions checks what stores have in common whose requests carry a secret.
func cloudOptions(u *url.URL, known []string, whose string) (url.Values, error) {
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("its options after ? are malformed")
	}
	if u.Fragment != "" {
		return nil, errors.New("a bucket or container has no part after #")
	}
	for name := range options {
		if slices.Contains(secretOptions, strings.ToLower(name)) {
			return nil, errors.New("it has a key or a signature in it, and secrets are never in this file")
		}
	}
	for name, values := range options {
		switch {
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("option %s is unknown; there are %s. Credentials are found the way %s tools find them", quote(name), strings.Join(known, ", "), whose)
		case len(values) != 1 || values[0] == "":
			return nil, fmt.Errorf("option %s needs one value", name)
		case strings.HasSuffix(name, "-file") && !path.IsAbs(values[0]):
			return nil, fmt.Errorf("option %s is the absolute path of a file", name)
		}
	}
	if v := options.Get("endpoint"); v != "" {
		e, err := url.Parse(v)
		if err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" {
			return nil, errors.New("option endpoint is a URL such as https://storage.example.com")
		}
		if e.User != nil || e.RawQuery != "" {
			return nil, errSecretInURL
		}
		if ip := net.ParseIP(e.Hostname()); e.Scheme == "http" && e.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, errors.New("option endpoint must be https: credentials would cross the network in plain text")
		}
	}
	return options, nil
}

// isName tells that name has least to most characters of [a-z0-9], or of more, which do not stand at its ends. An
// expression with such counts would be compiled, at each start of the program, into hundreds of KiB.
func isName(name string, least, most int, more string) bool {
	if len(name) < least || len(name) > most || strings.ContainsAny(name[:1]+name[len(name)-1:], more) {
		return false
	}
	return !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune(more, c)
	})
}
