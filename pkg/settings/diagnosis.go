package settings

// Diagnosis holds the settings of logs and profiles, which are the same in all programs.
type Diagnosis struct {
	LogLevel  string `setting:"LOG_LEVEL" default:"info" usage:"error, warn, info or debug"`
	LogFormat string `setting:"LOG_FORMAT" default:"auto" usage:"text, json, or auto: text on a terminal, json elsewhere"`
	DebugPort int    `setting:"DEBUG_PORT" default:"0" usage:"TCP port for pprof, on 127.0.0.1 alone; 0 for none"`
}

// Validate returns a fault for every setting that cannot be used.
func (d *Diagnosis) Validate() (faults Faults) {
	faults.CheckLog(d.LogLevel, d.LogFormat)
	faults.Check(isPort(d.DebugPort), "DEBUG_PORT", "is %d; it must be 1 to 65535, or 0 for none", d.DebugPort)
	return faults
}
