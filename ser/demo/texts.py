"""Every text of the page in English and Chinese."""

from ser.emotions import chinese_name

LANGUAGES = {"en": "English", "zh": "中文"}

# key: (English, Chinese)
_TEXTS = {
    "title": ("Speech emotion recognition", "语音情感识别"),
    "language": ("Language", "语言"),
    "model": ("Model", "模型"),
    "model_failed": (
        "This model cannot be used: {reason} Choose another model above; the page goes on.",
        "此模型无法使用：{reason} 请在上方选择其他模型，页面仍可使用。",
    ),
    "tab_live": ("Live", "实时"),
    "tab_file": ("File", "文件"),
    "tab_folder": ("Folder", "文件夹"),
    "tab_history": ("History", "历史"),
    "tab_card": ("Model card", "模型卡"),
    "start": ("Start microphone", "打开麦克风"),
    "stop": ("Stop microphone", "关闭麦克风"),
    "live_idle": (
        "Press “Start microphone” and speak. Nothing leaves this computer.",
        "点击“打开麦克风”后说话。声音不会离开本机。",
    ),
    "live_idle_open": (
        "Press “Start microphone” and speak. Your sound is sent to the computer that serves this page.",
        "点击“打开麦克风”后说话。声音会发送到提供本页的计算机。",
    ),
    "open_to_network": (
        "This page is open to the network: everyone who reaches its address can use it, and what you record or "
        "upload is sent to the computer that serves it.",
        "本页对网络开放：任何能访问此地址的人都可以使用，您录制或上传的声音会发送到提供本页的计算机。",
    ),
    "too_many_windows": (
        "Too many windows of this page are open; close some of them, then reload.",
        "本页打开的窗口过多；请关闭一些，然后刷新。",
    ),
    "over_quota": (
        "More than {most:.0f} MB were uploaded within an hour; wait, or use `ser predict`.",
        "一小时内上传超过 {most:.0f} MB；请稍后再试，或使用 `ser predict`。",
    ),
    "microphone": ("Microphone", "麦克风"),
    "default_microphone": ("default", "默认"),
    "clipping": ("clipping: turn the microphone down", "削波：请调低麦克风音量"),
    "live_settings": ("Settings", "设置"),
    "setting_window": ("Window (s): sound that each answer covers", "窗口（秒）：每个结果所依据的声音"),
    "setting_hop": ("Hop (s): from one answer to the next", "步长（秒）：相邻结果的间隔"),
    "setting_smoothing": ("Smoothing: weight of earlier answers", "平滑：之前结果的权重"),
    "too_slow": (
        "This computer is too slow for these settings, so windows are dropped. Choose a longer hop, a shorter "
        "window or a smaller model.",
        "本机速度不足以支持当前设置，因此有窗口被丢弃。请选择更长的步长、更短的窗口或更小的模型。",
    ),
    "answer_age": ("answer is old by", "结果已过去"),
    "asking": ("Asking for the microphone …", "正在请求麦克风……"),
    "denied": (
        "The browser refused the microphone; allow it for this page (the icon beside the address), then start again.",
        "浏览器拒绝了麦克风；请在地址栏旁的图标中允许本页使用，然后重新打开。",
    ),
    "no_microphone": ("There is no microphone; plug one in, then start again.", "没有找到麦克风；请插入后重新打开。"),
    "insecure": (
        "The browser gives the microphone only to https pages and to 127.0.0.1; open the page there.",
        "浏览器只允许 https 页面或 127.0.0.1 使用麦克风；请用这样的地址打开。",
    ),
    "unplugged": (
        "The microphone stopped sending; plug it in again, then start anew.",
        "麦克风已断开；请重新插入，然后再次打开。",
    ),
    "unreachable": (
        "The page lost its server; start `ser demo` again, then reload.",
        "与服务器的连接已断开；请重新运行 `ser demo`，然后刷新页面。",
    ),
    "listening": ("listening: {heard:.1f} of {window:g} s", "正在聆听：{heard:.1f} / {window:g} 秒"),
    "no_speech": ("no speech", "无语音"),
    "confidence": ("confidence", "置信度"),
    "level": ("level", "音量"),
    "latency": ("latency", "延迟"),
    "dropped": ("windows dropped", "丢弃的窗口"),
    "lost": ("sound lost on the way", "传输中丢失的声音"),
    "heard": ("heard", "已听"),
    "seconds": ("{value:.1f} s", "{value:.1f} 秒"),
    "whole_seconds": ("{value:.0f} s", "{value:.0f} 秒"),
    "milliseconds": ("{value:.0f} ms", "{value:.0f} 毫秒"),
    "decibels": ("{value:.0f} dB", "{value:.0f} 分贝"),
    "probabilities": ("Probabilities", "各类概率"),
    "waveform": ("Waveform", "波形"),
    "timeline": ("Probabilities over time", "概率随时间的变化"),
    "strip": ("Emotion of each window", "每个窗口的情感"),
    "attention": ("Waveform; the shade shows where the model looks", "波形；阴影表示模型关注的位置"),
    "file_input": ("Drop a recording, choose one, or record", "拖入、选择或录制一段声音"),
    "file_button": ("Recognise", "识别"),
    "file_none": ("Choose or record a file first.", "请先选择或录制文件。"),
    "file_idle": ("The answer appears here.", "结果将显示在这里。"),
    "quiet_note": (
        "Less than a tenth of this recording is speech, so it has no emotion.",
        "这段录音中语音不足十分之一，因此没有情感结果。",
    ),
    "long_note": (
        "Longer than 60 s: the probabilities are a mean over {windows} windows.",
        "超过 60 秒：概率为 {windows} 个窗口的平均值。",
    ),
    "too_long": (
        "{name} lasts {seconds:.0f} s, at most {most:g} s are accepted; cut it, or use `ser predict`.",
        "{name} 时长 {seconds:.0f} 秒，最多 {most:g} 秒；请剪短，或使用 `ser predict`。",
    ),
    "too_dense": (
        "{name} has {channels} channels at {rate} Hz, too much to decode; convert it to 16 kHz mono.",
        "{name} 有 {channels} 个声道，采样率 {rate} Hz，数据量过大；请转换为 16 kHz 单声道。",
    ),
    "too_large": (
        "{name} has {size:.1f} MB, at most {most:g} MB are accepted; convert it to FLAC or cut it.",
        "{name} 大小 {size:.1f} MB，最多 {most:g} MB；请转换为 FLAC 或剪短。",
    ),
    "too_many": (
        "{count} files were given, at most {most} are taken at once; use `ser predict` for more.",
        "共 {count} 个文件，一次最多 {most} 个；更多文件请使用 `ser predict`。",
    ),
    "outside": (
        "That file was not uploaded to this page, so it is refused; choose it in the page.",
        "该文件不是在本页上传的，已拒绝；请在页面中选择文件。",
    ),
    "error": ("Not possible: {reason}", "无法完成：{reason}"),
    "folder_files": ("Audio files", "音频文件"),
    "folder_choose": ("Choose a whole folder", "选择整个文件夹"),
    "folder_none": ("Choose files or a folder first.", "请先选择文件或文件夹。"),
    "folder_no_audio": (
        "There is no audio file among these; choose WAV, FLAC, MP3 or Ogg files.",
        "其中没有音频文件；请选择 WAV、FLAC、MP3 或 Ogg 文件。",
    ),
    "folder_done": (
        "{good} recognised, {bad} failed, {ignored} ignored",
        "已识别 {good} 个，失败 {bad} 个，忽略 {ignored} 个",
    ),
    "ignored": ("ignored: its name is not that of an audio file", "已忽略：文件名不是音频文件"),
    "recognising": ("recognising", "正在识别"),
    "download_csv": ("Download CSV", "下载 CSV"),
    "download_json": ("Download JSON", "下载 JSON"),
    "column_file": ("File", "文件"),
    "column_seconds": ("Length (s)", "时长（秒）"),
    "column_number": ("#", "编号"),
    "column_source": ("Source", "来源"),
    "column_name": ("Name", "名称"),
    "column_predicted": ("Emotion", "情感"),
    "column_reason": ("Reason", "原因"),
    "play": ("Play", "播放"),
    "no_clip": ("There is no recording of this row to play.", "此行没有可播放的录音。"),
    "column_confidence": ("Confidence", "置信度"),
    "column_time": ("Time", "时间"),
    "column_model": ("Model", "模型"),
    "kind_live": ("microphone", "麦克风"),
    "kind_file": ("single file", "单个文件"),
    "kind_folder": ("several files", "多个文件"),
    "history_empty": (
        "Nothing yet: what you recognise in this window is listed here, and only here.",
        "暂无记录：您在此窗口中的识别结果会列在这里，且仅在这里。",
    ),
    "history_kept": (
        "{total} entries; the last {most} are kept until this window is closed. Choose a row to play it.",
        "共 {total} 条；保留最近 {most} 条，关闭窗口后删除。选择一行即可播放。",
    ),
    "clear_history": ("Clear history", "清空历史"),
    "card_corpus": ("Corpus", "语料库"),
    "card_protocol": ("Protocol", "划分方式"),
    "card_fold": ("Fold held out", "留出的折"),
    "card_uar": ("UAR on its test part", "测试部分的 UAR"),
    "card_interval": ("95% interval over speakers", "按说话人的 95% 区间"),
    "card_wa": ("WA on its test part", "测试部分的 WA"),
    "card_test": ("Test part", "测试部分"),
    "card_test_value": ("{n} utterances of {speakers} speakers", "{speakers} 位说话人的 {n} 条语音"),
    "card_encoder": ("Encoder", "编码器"),
    "card_network": ("Network", "网络"),
    "card_parameters": ("Parameters", "参数量"),
    "card_normalization": ("Normalisation", "归一化"),
    "card_emotions": ("Emotions", "情感类别"),
    "card_path": ("Loaded from", "来源路径"),
    "card_gate": ("Speech gate", "语音检测"),
    "card_no_results": (
        "There are no results beside this model, so nothing is known of how well it does.",
        "此模型旁没有结果文件，因此无法得知其表现。",
    ),
    "card_synthetic": (
        "This model has only heard a synthetic voice; on people its answers mean nothing.",
        "此模型只听过合成语音；用于真人时结果没有意义。",
    ),
    "card_overlap": (
        "Speaker overlap: its test speakers were also in training, so its score is too good for strangers.",
        "说话人重叠：测试说话人也出现在训练中，因此成绩对陌生人而言偏高。",
    ),
    "card_transductive": (
        "Transductive: the test speakers' unlabelled audio was used, which one recording cannot give.",
        "直推式：使用了测试说话人的无标签音频，单段录音无法提供。",
    ),
    "card_speaker": (
        "Trained with each speaker's own statistics; files are normalised by the training part's, the "
        "microphone by running ones.",
        "训练时使用各说话人自己的统计量；文件使用训练部分的统计量，麦克风使用滑动统计量。",
    ),
    "card_limits": (
        "It names the acted or performed emotions of its corpus, not what somebody feels; do not decide "
        "about people by it.",
        "模型识别的是语料中表演出的情感，并非人的真实感受；请勿据此对人作出决定。",
    ),
}


def text(language: str, key: str, **values: object) -> str:
    """The sentence ``key`` in a language, with its values filled in."""
    return _TEXTS[key][language == "zh"].format(**values)


def emotion_name(language: str, emotion: str) -> str:
    """An emotion as it is called in a language; a name without translation stays as it is."""
    return chinese_name(emotion) if language == "zh" else emotion
