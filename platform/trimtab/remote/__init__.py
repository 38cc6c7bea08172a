"""Ray clusters: join one, or send it a sweep as a job."""
