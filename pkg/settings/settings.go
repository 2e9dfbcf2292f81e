// Package settings reads the settings of a process: defaults, an optional file, the
// environment. One struct declares them and is the manual page too: each field has its name,
// default and description.
//
//	type Settings struct {
//		Port     int             `setting:"PORT" default:"8080" usage:"TCP port to listen on; 0 picks a free one"`
//		Password settings.Secret `setting:"ADMIN_PASSWORD" default:"admin123" usage:"password of the admin"`
//	}
//
// A Secret X may also come from the file that X_FILE names. The tag group is the heading of this
// field and the next ones in --help; alias is another environment variable of it; mistaken lists
// names that people confuse it with, such as another program's name for the same thing.
package settings

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/viper"
)

// Secret is a setting that is never printed: every format gives a placeholder.
type Secret string

const hidden = "[secret]"

func (Secret) String() string               { return hidden }
func (Secret) Format(w fmt.State, _ rune)   { _, _ = io.WriteString(w, hidden) } // %d and others ignore Stringer
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Reveal returns the secret.
func (s Secret) Reveal() string { return string(s) }

// Fault is a setting that cannot be used, and the reason.
type Fault struct {
	Setting string
	Detail  string
}

// Faults is the error of all settings that cannot be used.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, 0, len(f)+1)
	lines = append(lines, "these settings cannot be used:")
	for _, fault := range f {
		lines = append(lines, "  "+fault.Setting+" "+fault.Detail)
	}
	return strings.Join(lines, "\n")
}

// Check adds a fault unless ok.
func (f *Faults) Check(ok bool, setting, detail string, args ...any) {
	if !ok {
		*f = append(*f, Fault{setting, fmt.Sprintf(detail, args...)})
	}
}

// Err returns f, or nil if it is empty.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// Validator is a settings struct that validates its values. Settings that could not be parsed
// have their default then.
type Validator interface{ Validate() Faults }

// Read fills the struct that into points to. file may be "". The error is a Faults.
func Read(into Validator, file string) error {
	_, err := Load(into, file, Fields(into))
	return err
}

// quoted matches what an error of a parser quotes, up to the last quote: the value may contain
// some.
var quoted = regexp.MustCompile("(?s)`.*`|'.*'|\".*\"")

// withoutValues returns the text of a parser's error without quoted values, which may be
// secrets: a password that begins with * or & is an alias or an anchor in YAML.
func withoutValues(err error, known []Field) string {
	return quoted.ReplaceAllStringFunc(err.Error(), func(s string) string {
		inner := s[1 : len(s)-1]
		if len(inner) < 2 || slices.ContainsFunc(known,
			func(f Field) bool { return strings.EqualFold(f.Name, inner) }) {
			return s
		}
		return "(not shown)"
	})
}

// Load is Read, and returns the fields with their sources. known are the settings that the file may
// have.
func Load(into Validator, file string, known []Field) (fields []Field, err error) {
	v := viper.New()
	fields = Fields(into)
	for _, f := range fields {
		v.SetDefault(f.Name, f.Default)
		_ = v.BindEnv(append([]string{f.Name}, f.variables()...)...) // fails only without a name
	}
	var faults Faults
	if file != "" {
		v.SetConfigFile(file)
		if err := v.ReadInConfig(); err != nil {
			return nil, Faults{{"--config",
				fmt.Sprintf("names a file that cannot be read: %s: %s", file, withoutValues(err, known))}}
		}
		faults = append(faults, unknownKeys(v, known)...)
	}
	for i, f := range fields {
		text, detail := textOf(v.Get(f.Name))
		source := f.sourceIn(v)
		if f.Secret {
			fromFile, fault := f.secretFromFile(source, v)
			faults = append(faults, fault...)
			if fromFile != "" {
				text, source = fromFile, f.Name+"_FILE"
			}
		}
		if detail == "" {
			detail = f.set(text)
		}
		if detail != "" {
			faults = append(faults, Fault{f.Name, detail})
			f.set(f.Default)
			source = sourceDefault
		}
		fields[i].Source = source
	}
	for _, fault := range into.Validate() {
		if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Setting == fault.Setting }) {
			faults = append(faults, fault)
		}
	}
	return fields, faults.Err()
}

const sourceDefault = "default"

// sourceIn returns the source of the value of a setting.
func (f Field) sourceIn(v *viper.Viper) string {
	switch {
	case slices.ContainsFunc(f.variables(), func(name string) bool { return os.Getenv(name) != "" }):
		return "environment"
	case v.InConfig(f.Name):
		return "--config"
	}
	return sourceDefault
}

// variables returns the environment variables of a setting, of which the first that is set
// counts.
func (f Field) variables() []string {
	if f.alias == "" {
		return []string{f.Name}
	}
	return []string{f.Name, f.alias}
}

// textOf returns the value of a setting as an environment variable would have it: a list with
// commas between. A table is a fault: as an empty value it would disable the setting.
func textOf(value any) (text, fault string) {
	switch value := value.(type) {
	case []any:
		parts := make([]string, len(value))
		for i, part := range value {
			if parts[i], fault = textOf(part); fault != "" {
				return "", fault
			}
		}
		return strings.Join(parts, ","), ""
	case map[string]any:
		return "", "is a table in the settings file; it must be a single value"
	}
	return fmt.Sprint(value), ""
}

// secretFromFile reads the secret X from the file that X_FILE names, without a byte order mark
// and trailing newlines. source is the source of X itself.
func (f Field) secretFromFile(source string, v *viper.Viper) (string, Faults) {
	setting := f.Name + "_FILE"
	_ = v.BindEnv(setting, setting)
	path := v.GetString(setting)
	switch {
	case path == "":
		return "", nil
	case source != sourceDefault:
		return "", Faults{{setting, "is set, and so is " + f.Name + "; set one of the two"}}
	}
	b, err := readSecret(path)
	switch {
	case err != nil:
		return "", Faults{{setting, "cannot be read: " + err.Error()}}
	case len(b) > maxSecretBytes:
		return "", Faults{{setting, fmt.Sprintf("names a file of more than %d bytes: %s", maxSecretBytes, path)}}
	case bytes.HasPrefix(b, []byte("\xff\xfe")), bytes.HasPrefix(b, []byte("\xfe\xff")):
		return "", Faults{{setting, "names a file in UTF-16: " + path + "; save it as UTF-8"}}
	}
	secret := strings.TrimRight(strings.TrimPrefix(string(b), byteOrderMark), "\r\n")
	if secret == "" {
		return "", Faults{{setting, "names an empty file: " + path}}
	}
	return secret, nil
}

// byteOrderMark is what some editors write before UTF-8.
const byteOrderMark = "\ufeff"

// maxSecretBytes is the longest secret in a file.
const maxSecretBytes = 64 << 10

// readSecret reads at most maxSecretBytes+1 bytes of a file, which may be a pipe.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
}

func unknownKeys(v *viper.Viper, fields []Field) (faults Faults) {
	for _, key := range v.AllKeys() {
		name := strings.ToUpper(key)
		if !slices.ContainsFunc(fields, func(f Field) bool {
			return f.Name == name || f.Secret && f.Name+"_FILE" == name
		}) {
			detail := "is not a setting of this program; --help lists them"
			if meant := nearest(name, fields, nil); meant != "" {
				detail = "is not a setting of this program; did you mean " + meant + "?"
			}
			faults = append(faults, Fault{name, detail})
		}
	}
	slices.SortFunc(faults, func(a, b Fault) int { return strings.Compare(a.Setting, b.Setting) })
	return faults
}

// Field is a field of a settings struct.
type Field struct {
	Name, Default, Usage string
	Group                string // heading before it in --help, "" for none
	Secret               bool
	Source               string // of its value, once read

	alias    string   // another environment variable of it, "" for none
	mistaken []string // names that it is confused with
	value    reflect.Value
}

// Fields returns the fields of a settings struct.
func Fields(into Validator) []Field {
	value := reflect.ValueOf(into).Elem()
	fields := make([]Field, 0, value.NumField())
	for i := range value.NumField() {
		f := value.Type().Field(i)
		if f.Anonymous { // settings that a command reads without the others
			part := Fields(value.Field(i).Addr().Interface().(Validator))
			if group := f.Tag.Get("group"); group != "" && len(part) > 0 {
				part[0].Group = group
			}
			fields = append(fields, part...)
			continue
		}
		fields = append(fields, Field{
			Name:     f.Tag.Get("setting"),
			Default:  f.Tag.Get("default"),
			Usage:    f.Tag.Get("usage"),
			Group:    f.Tag.Get("group"),
			alias:    f.Tag.Get("alias"),
			mistaken: strings.Fields(f.Tag.Get("mistaken")),
			Secret:   f.Type == reflect.TypeFor[Secret](),
			value:    value.Field(i),
		})
	}
	return fields
}

// set parses text as the field's type. It returns the fault, "" for none.
func (f Field) set(text string) (fault string) {
	switch into := f.value.Addr().Interface().(type) {
	case *string:
		*into = text
	case *Secret:
		*into = Secret(text)
	case *int:
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return fmt.Sprintf("is %q; it must be a whole number", text)
		}
		*into = n
	case *bool:
		b, err := strconv.ParseBool(strings.TrimSpace(text))
		if err != nil {
			return fmt.Sprintf("is %q; it must be true or false", text)
		}
		*into = b
	case *time.Duration:
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil {
			return fmt.Sprintf("is %q; it must be a duration with its unit, such as 30s or 5m", text)
		}
		*into = d
	case *[]string:
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*into = append(*into, part)
			}
		}
	case *[]netip.Prefix:
		prefixes, detail := parsePrefixes(text)
		if detail != "" {
			return detail
		}
		*into = prefixes
	default:
		panic(fmt.Sprintf("settings: %s has a type that cannot be read: %T", f.Name, into))
	}
	return ""
}

// parsePrefixes parses networks with commas between. An address is a network of one, and "none"
// is no network, because an empty variable counts as unset.
func parsePrefixes(text string) (prefixes []netip.Prefix, fault string) {
	if strings.TrimSpace(text) == "none" {
		return nil, ""
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if addr, addrErr := netip.ParseAddr(part); err != nil && addrErr == nil {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return nil, fmt.Sprintf("holds %q, which is not a network such as 10.0.0.0/8", part)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, ""
}

// The parts of a URL that may be secret.
var userinfo, query = regexp.MustCompile(`://[^/@\s]*@`), regexp.MustCompile(`\?\S+`)

// Shown returns the value of a setting without secrets.
func (f Field) Shown() string {
	var text string
	switch value := f.value.Interface().(type) {
	case Secret:
		if value == "" {
			return "-"
		}
		return hidden
	case []string:
		text = strings.Join(value, ",")
	case []netip.Prefix:
		parts := make([]string, len(value))
		for i, prefix := range value {
			parts[i] = prefix.String()
		}
		text = strings.Join(parts, ",")
	default:
		text = fmt.Sprint(value)
	}
	if text == "" {
		return "-"
	}
	if strings.Contains(text, "://") {
		text = query.ReplaceAllString(userinfo.ReplaceAllString(text, "://"+hidden+"@"), "?"+hidden)
	}
	return text
}
