package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Location is a replica's URL: "file:///directory", "s3://bucket/prefix?region=…&endpoint=…&path-style=true",
// "gs://bucket/prefix", "azblob://account/container/prefix" or "sftp://user@host:port/directory?identity-file=…".
// It was checked and holds no secret.
type Location string

var (
	errSecretInURL = errors.New("it has a user name or a password in it, and secrets are never in this file")
	// These are the parameters that store/open reads; its tests and its doc.go say what they mean.
	s3Options   = []string{"region", "endpoint", "path-style", "profile", "ca-file", "storage-class", "sse", "kms-key"}
	sftpOptions = []string{"identity-file", "known-hosts"}
)

func parseLocation(s string) (Location, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", errors.New(`it is no URL: write "file:///directory", "s3://bucket/prefix", "gs://bucket/prefix", "azblob://account/container/prefix" or "sftp://user@host/directory"`) // url's error repeats the text
	}
	if u.User != nil && u.Scheme != "sftp" {
		return "", errSecretInURL
	}
	switch u.Scheme {
	case "file":
		err = checkFileURL(u)
	case "s3":
		err = checkS3URL(u)
	case "gs":
		err = checkGoogleURL(u)
	case "azblob":
		err = checkAzureURL(u)
	case "sftp":
		err = checkSFTPURL(u)
	default:
		err = fmt.Errorf("its scheme %s is not one of file, s3, gs, azblob, sftp", quote(u.Scheme))
	}
	if err != nil {
		return "", err
	}
	return Location(s), nil
}

func checkFileURL(u *url.URL) error {
	switch {
	case u.Host != "":
		return fmt.Errorf("it names the host %s; a directory of this machine has three slashes: file:///directory", quote(u.Host))
	case !path.IsAbs(u.Path) || path.Clean(u.Path) == "/":
		return errors.New("it names no directory: write file:///directory")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("a directory has no options after ? or #")
	}
	return nil
}

func checkS3URL(u *url.URL) error {
	if !isName(u.Host, 3, 63, ".-") {
		return fmt.Errorf("%s is no name of a bucket (3 to 63 characters of [a-z0-9.-])", quote(u.Host))
	}
	if u.Fragment != "" {
		return errors.New("a bucket has no part after #")
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("its options after ? are malformed")
	}
	for name, values := range options {
		if !slices.Contains(s3Options, name) {
			return fmt.Errorf("option %s is unknown; there are %s. Credentials are found the way the AWS tools find them", quote(name), strings.Join(s3Options, ", "))
		}
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("option %s needs one value", name)
		}
	}
	if v := options.Get("path-style"); v != "" {
		if _, err := strconv.ParseBool(v); err != nil {
			return errors.New("option path-style is true or false")
		}
	}
	if v := options.Get("endpoint"); v != "" {
		e, err := url.Parse(v)
		if err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" {
			return errors.New("option endpoint is a URL such as https://s3.example.com")
		}
		if e.User != nil {
			return errSecretInURL
		}
	}
	return nil
}

// checkSFTPURL repeats neither user nor host: they may be parts of a password that has a slash.
func checkSFTPURL(u *url.URL) error {
	if _, has := u.User.Password(); has || strings.ContainsAny(u.User.Username(), ":@") {
		return errors.New("it has a password in it, and secrets are never in this file")
	}
	port := 22
	var err error
	if p := u.Port(); p != "" {
		port, err = strconv.Atoi(p)
	}
	switch {
	case u.User.Username() == "" || u.Hostname() == "" || err != nil || port < 1 || port > 65535:
		return errors.New("it names no user and host: write sftp://user@host/directory or sftp://user@host:port/directory")
	case path.Clean(u.Path) == "/" || u.Path == "" || u.Path == "/~/":
		return errors.New("it names no directory: write sftp://user@host/directory, or /~/directory for one below the user's home")
	case u.Fragment != "":
		return errors.New("a directory has no part after #")
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("its options after ? are malformed")
	}
	for name, values := range options {
		if !slices.Contains(sftpOptions, name) {
			return fmt.Errorf("option %s is unknown; there are %s. Keys are found the way OpenSSH finds them", quote(name), strings.Join(sftpOptions, ", "))
		}
		for _, v := range values {
			if !path.IsAbs(v) && !strings.HasPrefix(v, "~/") {
				return fmt.Errorf("option %s is the absolute path of a file, or one that begins with ~/", name)
			}
		}
	}
	return nil
}

// Connection is a PostgreSQL connection string without a password. It prints with what a password could stand
// in hidden, although Load refuses those.
type Connection string

// DSN returns the string that a PostgreSQL driver reads.
func (c Connection) DSN() string { return string(c) }

// String returns the connection string, or "(hidden)" where it holds a password.
func (c Connection) String() string {
	if _, err := ParseConnection(string(c)); err != nil {
		return hidden
	}
	return string(c)
}

// LogValue is String for logs.
func (c Connection) LogValue() slog.Value { return slog.StringValue(c.String()) }

// secretParameters are the parameters of libpq (PostgreSQL manual, "Parameter Key Words") that hold a secret.
var secretParameters = []string{"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}

// ParseConnection reads a connection string, and refuses one that holds a secret.
func ParseConnection(s string) (Connection, error) {
	var names []string
	var err error
	if strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://") {
		names, err = urlParameters(s)
	} else {
		names, err = keywordParameters(s)
	}
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if slices.Contains(secretParameters, strings.ToLower(name)) {
			return "", dr.Advise(fmt.Errorf("it has %s in it, and a secret is never written here", strings.ToLower(name)),
				"keep a password in a passfile (~/.pgpass), a service file or PGPASSWORD")
		}
	}
	return Connection(s), nil
}

// urlParameters returns the names of the parameters of "postgres://…". No error repeats the text.
func urlParameters(s string) ([]string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	if _, has := u.User.Password(); has {
		return []string{"password"}, nil
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("its parameters after ? are malformed")
	}
	var names []string
	for name := range options {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// keywordParameters returns the names in "name=value name = 'quoted \' value'" (PostgreSQL manual, "Keyword/Value
// Connection Strings"). No error repeats a value.
func keywordParameters(s string) ([]string, error) {
	var names []string
	for s = strings.TrimLeft(s, spaces); s != ""; s = strings.TrimLeft(s, spaces) {
		eq := strings.IndexByte(s, '=')
		if eq < 0 {
			return nil, errors.New(`it is not made of name=value pairs: write "host=… user=… dbname=…"`)
		}
		name := strings.TrimRight(s[:eq], spaces)
		if name == "" || strings.ContainsAny(name, spaces+`'\`) {
			return nil, errors.New(`it is not made of name=value pairs: write "host=… user=… dbname=…", with quotes '' around a value that has spaces`)
		}
		names = append(names, name)
		rest, ok := skipValue(strings.TrimLeft(s[eq+1:], spaces))
		if !ok {
			return nil, fmt.Errorf("the quote after %s= is not closed", quote(name))
		}
		s = rest
	}
	return names, nil
}

const spaces = " \t\r\n\f\v"

// skipValue returns what follows the value at the beginning of s; not ok where its quote is not closed.
func skipValue(s string) (rest string, ok bool) {
	quoted := strings.HasPrefix(s, "'")
	i := 0
	if quoted {
		i = 1
	}
	for ; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case quoted && s[i] == '\'':
			return s[i+1:], true
		case !quoted && strings.IndexByte(spaces, s[i]) >= 0:
			return s[i:], true
		}
	}
	return "", !quoted
}
