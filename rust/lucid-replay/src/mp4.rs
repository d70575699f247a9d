//! Fragmented MP4 (ISO/IEC 14496-12): a head that says what the tracks hold, fragments of moof and mdat, and at the end an
//! index of where pictures stand that need none before.

use std::num::NonZeroU32;

use shiguredo_mp4::boxes::{
    AudioSampleEntryFields, Avc1Box, AvccBox, Brand, DinfBox, DopsBox, FtypBox, HdlrBox, MdhdBox, MdiaBox,
    MediaHeader, MehdBox, MfhdBox, MfraBox, MfroBox, MinfBox, MoofBox, MoovBox, MvexBox, MvhdBox, OpusBox,
    SampleEntry, SmhdBox, StblBox, StcoBox, StscBox, StsdBox, StszBox, SttsBox, TfdtBox, TfhdBox, TfraBox,
    TfraEntry, TkhdBox, TrafBox, TrakBox, TrexBox, TrunBox, TrunSample, VisualSampleEntryFields, VmhdBox,
};
use shiguredo_mp4::{
    BoxHeader, BoxSize, BoxType, Either, Encode as _, FixedPointNumber, LanguageCode, Mp4FileTime,
    SampleFlags, Uint,
};

use crate::h264::Parameters;
use crate::{Error, Result};

/// Ticks a second of the video track, as in every MPEG system: a duration of 32 bits is up to 13 hours.
pub(crate) const VIDEO_SCALE: u32 = 90_000;
/// Ticks a second of the sound track: those of Opus.
pub(crate) const SOUND_SCALE: u32 = 48_000;
const VIDEO: u32 = 1;
const SOUND: u32 = 2;
/// Milliseconds, for times of the whole file.
const SCALE: u32 = 1000;
/// A sample that needs those before it, and one that needs none (8.8.3.1).
const DEPENDS: SampleFlags = SampleFlags::from_fields(0, 1, 0, 0, 0, true, 0);
const STANDS_ALONE: SampleFlags = SampleFlags::from_fields(0, 2, 0, 0, 0, false, 0);

/// A time in microseconds, in the video track's ticks.
pub(crate) fn video_ticks(us: u64) -> u64 {
    (u128::from(us) * u128::from(VIDEO_SCALE) / 1_000_000) as u64
}

/// What the tracks hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tracks {
    /// Size of the pictures.
    pub(crate) width: u16,
    pub(crate) height: u16,
    /// Cut to that size.
    pub(crate) parameters: Parameters,
    /// Whether there is a track of sound.
    pub(crate) sound: bool,
    /// When the first picture was shown, in milliseconds since the Unix epoch.
    pub(crate) began_ms: u64,
    /// How long it all is, where that is known.
    pub(crate) length_us: Option<u64>,
}

/// A picture, or a packet of sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    /// In ticks of its track.
    pub(crate) duration: u32,
    /// Whether it needs none before.
    pub(crate) key: bool,
}

/// What goes into one fragment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Where it begins, in ticks of the video track.
    pub(crate) video_start: u64,
    pub(crate) video: Vec<Sample>,
    /// Where its sound begins, in ticks of the sound track.
    pub(crate) sound_start: u64,
    pub(crate) sound: Vec<Sample>,
}

impl Tracks {
    /// The codecs, as browsers want them named (RFC 6381).
    pub(crate) fn codecs(&self) -> String {
        let [_, profile, constraints, level, ..] = self.parameters.sequence[..] else { return String::new() };
        let sound = if self.sound { ", opus" } else { "" };
        format!("avc1.{profile:02x}{constraints:02x}{level:02x}{sound}")
    }

    /// ftyp and moov.
    pub(crate) fn head(&self) -> Result<Vec<u8>> {
        let brands = [Brand::ISO6, Brand::ISOM, Brand::AVC1, Brand::MP41].to_vec();
        let kind = FtypBox { major_brand: Brand::ISO6, minor_version: 0, compatible_brands: brands };
        let length = self.length_us.map(|us| us / (1_000_000 / u64::from(SCALE)));
        let mut trak_boxes = vec![self.track(VIDEO, VIDEO_SCALE, self.video()?)];
        let mut trex_boxes = vec![defaults(VIDEO, DEPENDS)];
        if self.sound {
            trak_boxes.push(self.track(SOUND, SOUND_SCALE, sound()));
            trex_boxes.push(defaults(SOUND, STANDS_ALONE));
        }
        let all = MoovBox {
            mvhd_box: MvhdBox {
                creation_time: self.time(),
                modification_time: self.time(),
                timescale: scale(SCALE),
                // Of the pictures in this box: there are none.
                duration: 0,
                rate: MvhdBox::DEFAULT_RATE,
                volume: MvhdBox::DEFAULT_VOLUME,
                matrix: MvhdBox::DEFAULT_MATRIX,
                next_track_id: SOUND + 1,
            },
            trak_boxes,
            mvex_box: Some(MvexBox {
                mehd_box: length.map(|fragment_duration| MehdBox { fragment_duration }),
                trex_boxes,
                unknown_boxes: Vec::new(),
            }),
            unknown_boxes: Vec::new(),
        };
        Ok([kind.encode_to_vec()?, all.encode_to_vec()?].concat())
    }

    fn time(&self) -> Mp4FileTime {
        Mp4FileTime::from_unix_time(std::time::Duration::from_millis(self.began_ms))
    }

    fn track(&self, track_id: u32, timescale: u32, entry: SampleEntry) -> TrakBox {
        let is_video = track_id == VIDEO;
        // Both are at most 8192.
        let size = |edge: u16| FixedPointNumber::new(if is_video { edge as i16 } else { 0 }, 0);
        TrakBox {
            tkhd_box: TkhdBox {
                flag_track_enabled: true,
                flag_track_in_movie: true,
                flag_track_in_preview: false,
                flag_track_size_is_aspect_ratio: false,
                creation_time: self.time(),
                modification_time: self.time(),
                track_id,
                duration: 0,
                layer: TkhdBox::DEFAULT_LAYER,
                alternate_group: TkhdBox::DEFAULT_ALTERNATE_GROUP,
                volume: if is_video { TkhdBox::DEFAULT_VIDEO_VOLUME } else { TkhdBox::DEFAULT_AUDIO_VOLUME },
                matrix: TkhdBox::DEFAULT_MATRIX,
                width: size(self.width),
                height: size(self.height),
            },
            edts_box: None,
            mdia_box: MdiaBox {
                mdhd_box: MdhdBox {
                    creation_time: self.time(),
                    modification_time: self.time(),
                    timescale: scale(timescale),
                    duration: 0,
                    language: LanguageCode::UNDEFINED,
                },
                hdlr_box: HdlrBox {
                    handler_type: if is_video { *b"vide" } else { *b"soun" },
                    name: if is_video { b"Desktop\0".to_vec() } else { b"Sound\0".to_vec() },
                },
                minf_box: MinfBox {
                    media_header: Some(if is_video {
                        MediaHeader::Vmhd(VmhdBox {
                            graphicsmode: VmhdBox::DEFAULT_GRAPHICSMODE,
                            opcolor: VmhdBox::DEFAULT_OPCOLOR,
                        })
                    } else {
                        MediaHeader::Smhd(SmhdBox { balance: SmhdBox::DEFAULT_BALANCE })
                    }),
                    dinf_box: DinfBox::LOCAL_FILE,
                    stbl_box: StblBox {
                        stsd_box: StsdBox { entries: vec![entry] },
                        stts_box: SttsBox { entries: Vec::new() },
                        ctts_box: None,
                        cslg_box: None,
                        stsc_box: StscBox { entries: Vec::new() },
                        stsz_box: StszBox::Variable { entry_sizes: Vec::new() },
                        stco_or_co64_box: Either::A(StcoBox { chunk_offsets: Vec::new() }),
                        stss_box: None,
                        sdtp_box: None,
                        unknown_boxes: Vec::new(),
                    },
                    unknown_boxes: Vec::new(),
                },
                unknown_boxes: Vec::new(),
            },
            unknown_boxes: Vec::new(),
        }
    }

    fn video(&self) -> Result<SampleEntry> {
        let Parameters { sequence, picture } = &self.parameters;
        let [_, profile, constraints, level, ..] = sequence[..] else {
            return Err(Error::H264("a sequence parameter set is cut off"));
        };
        Ok(SampleEntry::Avc1(Avc1Box {
            visual: VisualSampleEntryFields {
                data_reference_index: VisualSampleEntryFields::DEFAULT_DATA_REFERENCE_INDEX,
                width: self.width,
                height: self.height,
                horizresolution: VisualSampleEntryFields::DEFAULT_HORIZRESOLUTION,
                vertresolution: VisualSampleEntryFields::DEFAULT_VERTRESOLUTION,
                frame_count: VisualSampleEntryFields::DEFAULT_FRAME_COUNT,
                compressorname: VisualSampleEntryFields::NULL_COMPRESSORNAME,
                depth: VisualSampleEntryFields::DEFAULT_DEPTH,
            },
            avcc_box: AvccBox {
                avc_profile_indication: profile,
                profile_compatibility: constraints,
                avc_level_indication: level,
                length_size_minus_one: Uint::new(3),
                sps_list: vec![sequence.clone()],
                pps_list: vec![picture.clone()],
                chroma_format: None,
                bit_depth_luma_minus8: None,
                bit_depth_chroma_minus8: None,
                sps_ext_list: Vec::new(),
            },
            unknown_boxes: Vec::new(),
        }))
    }
}

fn scale(ticks: u32) -> NonZeroU32 {
    NonZeroU32::new(ticks).unwrap_or(NonZeroU32::MIN)
}

fn defaults(track_id: u32, flags: SampleFlags) -> TrexBox {
    TrexBox {
        track_id,
        default_sample_description_index: 1,
        default_sample_duration: 0,
        default_sample_size: 0,
        default_sample_flags: flags,
    }
}

/// Opus in ISO files (opus-codec.org's "Encapsulation of Opus in ISO Base Media File Format", 4.3).
fn sound() -> SampleEntry {
    SampleEntry::Opus(OpusBox {
        audio: AudioSampleEntryFields {
            data_reference_index: AudioSampleEntryFields::DEFAULT_DATA_REFERENCE_INDEX,
            channelcount: 2,
            samplesize: AudioSampleEntryFields::DEFAULT_SAMPLESIZE,
            samplerate: FixedPointNumber::new(SOUND_SCALE as u16, 0),
        },
        dops_box: DopsBox {
            // A packet of one channel is played on both.
            output_channel_count: 2,
            // What was recorded begins within a stream: there is no beginning to be left out.
            pre_skip: 0,
            input_sample_rate: SOUND_SCALE,
            output_gain: 0,
        },
        unknown_boxes: Vec::new(),
    })
}

impl Fragment {
    /// moof and mdat. Fragments of a file are numbered from 1.
    pub(crate) fn write(&self, number: u32) -> Result<Vec<u8>> {
        let runs = [(VIDEO, self.video_start, &self.video), (SOUND, self.sound_start, &self.sound)];
        let runs: Vec<_> = runs.into_iter().filter(|(_, _, samples)| !samples.is_empty()).collect();
        let length = |samples: &[Sample]| samples.iter().map(|sample| sample.bytes.len()).sum::<usize>();
        let make = |moof_size: usize| -> Result<Vec<u8>> {
            let mut offset = moof_size + BoxHeader::MIN_SIZE;
            let mut traf_boxes = Vec::new();
            for (track_id, start, samples) in &runs {
                let large = |_| Error::H264("a fragment is too large");
                let data_offset = i32::try_from(offset).map_err(large)?;
                offset += length(samples);
                traf_boxes.push(TrafBox {
                    tfhd_box: TfhdBox {
                        track_id: *track_id,
                        base_data_offset: None,
                        sample_description_index: None,
                        default_sample_duration: None,
                        default_sample_size: None,
                        default_sample_flags: None,
                        duration_is_empty: false,
                        default_base_is_moof: true,
                    },
                    tfdt_box: Some(TfdtBox { version: 1, base_media_decode_time: *start }),
                    trun_boxes: vec![TrunBox {
                        data_offset: Some(data_offset),
                        first_sample_flags: None,
                        samples: samples
                            .iter()
                            .map(|sample| {
                                Ok(TrunSample {
                                    duration: Some(sample.duration),
                                    size: Some(u32::try_from(sample.bytes.len()).map_err(large)?),
                                    flags: Some(if sample.key { STANDS_ALONE } else { DEPENDS }),
                                    composition_time_offset: None,
                                })
                            })
                            .collect::<Result<_>>()?,
                    }],
                    unknown_boxes: Vec::new(),
                });
            }
            let moof = MoofBox {
                mfhd_box: MfhdBox { sequence_number: number },
                traf_boxes,
                unknown_boxes: Vec::new(),
            };
            Ok(moof.encode_to_vec()?)
        };
        // Its size does not depend on the offsets in it.
        let size = make(0)?.len();
        let mut bytes = make(size)?;
        let content: usize = runs.iter().map(|(_, _, samples)| length(samples)).sum();
        let kind = BoxType::Normal(*b"mdat");
        let header = BoxHeader { box_type: kind, box_size: BoxSize::with_payload_size(kind, content as u64) };
        if header.external_size() != BoxHeader::MIN_SIZE {
            return Err(Error::H264("a fragment is too large"));
        }
        bytes.reserve(content + BoxHeader::MIN_SIZE);
        bytes.extend(header.encode_to_vec()?);
        runs.iter()
            .flat_map(|(_, _, samples)| samples.iter())
            .for_each(|sample| bytes.extend_from_slice(&sample.bytes));
        Ok(bytes)
    }
}

/// The index at the end of a file.
#[derive(Debug, Default)]
pub(crate) struct Index(Vec<TfraEntry>);

impl Index {
    /// Notes a fragment that begins with a picture that needs none before; `offset` is where it stands in the file.
    pub(crate) fn note(&mut self, fragment: &Fragment, offset: u64) {
        if fragment.video.first().is_some_and(|sample| sample.key) {
            self.0.push(TfraEntry {
                time: fragment.video_start,
                moof_offset: offset,
                traf_number: 1,
                trun_number: 1,
                sample_number: 1,
            });
        }
    }

    /// mfra.
    pub(crate) fn write(self) -> Result<Vec<u8>> {
        let mut all = MfraBox {
            tfra_boxes: vec![TfraBox {
                version: 1,
                track_id: VIDEO,
                length_size_of_traf_num: 0,
                length_size_of_trun_num: 0,
                length_size_of_sample_num: 0,
                entries: self.0,
            }],
            mfro_box: MfroBox { size: 0 },
        };
        all.mfro_box.size =
            u32::try_from(all.encode_to_vec()?.len()).map_err(|_| Error::H264("the index is too large"))?;
        Ok(all.encode_to_vec()?)
    }
}
